"""Images with fewer rows than the layout has ranks: refused, or rendered by as many ranks as there are rows for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.passes.stages import Highres
from distri.ranks.errors import TooManyRanks
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

SMALL = ImageSpec("a cat", "blurry", seed=7, width=64, height=64, steps=4, guidance_scale=5.0)
IMAGES = [
    SMALL,
    replace(SMALL, width=40 + 32, height=88),
    replace(SMALL, guidance_scale=1.0),
    replace(SMALL, scheduler="HeunDiscreteScheduler", steps=2),
    replace(SMALL, width=160, height=96),
]
LAYOUTS = [(3, "1x1x3"), (5, "1x1x5"), (6, "1x2x3")]


@pytest.mark.parametrize(("count", "layout"), LAYOUTS)
def test_ranks_without_rows_are_idle_if_that_is_asked_for(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    settings = EngineSettings(exact=True, idle_ranks=True)
    answers = ranks(count).run(on_ranks.render, model_dir, layout, settings, [*IMAGES, *IMAGES])
    for place, image in enumerate([*IMAGES, *IMAGES]):
        _, wanted = reference.render(model_dir, image)
        assert np.abs(answers[0][place].pixels - wanted * 255).max() < 1, image


def test_displaced_renders_with_idle_ranks_are_those_of_the_smaller_layout(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    settings = EngineSettings(warmup=1, idle_ranks=True)
    smaller = ranks(2).run(on_ranks.render, model_dir, "1x1x2", settings, [SMALL])[0][0]
    larger = ranks(3).run(on_ranks.render, model_dir, "1x1x3", settings, [SMALL])[0][0]
    assert larger.evaluations == smaller.evaluations
    assert larger.evaluations.displaced == 3
    assert np.abs(larger.pixels.astype(int) - smaller.pixels.astype(int)).max() <= 1


def _refused(model_dir: Path, layout: str, image: ImageSpec) -> int:
    engine = on_ranks.engine(model_dir, layout, EngineSettings(exact=True, native_px=64))
    before = engine.mesh.traffic.sent_bytes
    with pytest.raises(TooManyRanks, match=r"3 patch ranks were given.*at most 2"):
        engine.render(image, control=lambda: Control.GO)
    return engine.mesh.traffic.sent_bytes - before


@pytest.mark.parametrize("image", [SMALL, replace(SMALL, width=128, height=128, highres=Highres(refine=True))])
def test_by_default_they_are_refused_before_any_message_also_for_a_first_pass(
    ranks: Callable[[int], Ranks], model_dir: Path, image: ImageSpec
) -> None:
    assert ranks(3).run(_refused, model_dir, "1x1x3", image) == [0, 0, 0]


def test_one_rank_has_rows_for_everything(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))
    assert engine.render(SMALL, control=lambda: Control.GO).finite
