"""Pictures above the native size, and of any size, against text-to-image and image-to-image of plain diffusers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import Evaluations, ImageSpec
from distri.model.passes.stages import Enlargement, Highres, plan_stages
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from distri.sampling.pixels import covering, enlarged, low_frequencies
from tests.distri import on_ranks, reference
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

NATIVE_PX = 96
EXACT = EngineSettings(exact=True, native_px=NATIVE_PX)
REFINED = ImageSpec(
    *("a photo of a cat", "blurry"),
    seed=7,
    width=192,
    height=176,
    steps=5,
    guidance_scale=5.0,
    highres=Highres(refine=True, strength=0.5),
)
IMAGES = {
    "euler": REFINED,
    "two evaluations a step, odd size": replace(
        REFINED, scheduler="HeunDiscreteScheduler", width=203, height=155, highres=Highres(refine=True, strength=0.7)
    ),
    "stochastic": replace(REFINED, scheduler="EulerAncestralDiscreteScheduler", negative_prompt=None),
    "with history, own steps": replace(
        REFINED,
        scheduler="DPMSolverMultistepScheduler",
        scheduler_settings={"use_karras_sigmas": True},
        highres=Highres(refine=True, strength=0.4, steps=10),
    ),
    "two enlargements": replace(REFINED, width=304, height=248, steps=4),
    "direct, odd size": replace(REFINED, highres=Highres(), width=131, height=117),
}


def _plan(image: ImageSpec) -> Any:
    return plan_stages(
        image.width,
        image.height,
        steps=image.steps,
        seed=image.seed,
        highres=image.highres,
        native_px=NATIVE_PX,
    )


@pytest.fixture(scope="module")
def wanted(model_dir: Path) -> dict[str, Any]:
    return {name: reference.refined(model_dir, image, _plan(image))[1] for name, image in IMAGES.items()}


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x1x2"), (3, "1x1x3"), (4, "1x2x2")])
def test_refined_pictures_are_those_of_plain_diffusers(
    ranks: Callable[[int], Ranks], model_dir: Path, wanted: dict[str, Any], count: int, layout: str
) -> None:
    answers = ranks(count).run(on_ranks.render, model_dir, layout, EXACT, list(IMAGES.values()))
    for place, (name, image) in enumerate(IMAGES.items()):
        found = answers[0][place]
        assert found.pixels.shape == (image.height, image.width, 3)
        assert np.abs(found.pixels - wanted[name] * 255).max() < 1, name
        assert found.stages == _plan(image).stages
        assert all(answer[place].stages == found.stages for answer in answers)


def test_each_pass_warms_up_and_is_displaced_by_itself(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    fast = EngineSettings(warmup=1, native_px=NATIVE_PX)
    answers = ranks(2).run(on_ranks.render, model_dir, "1x1x2", fast, [REFINED, REFINED])
    first, again = answers[0]
    assert first.evaluations == Evaluations(synchronous=2, displaced=5)
    assert np.array_equal(first.pixels, again.pixels)


@pytest.mark.parametrize("enlargement", list(Enlargement))
def test_windows_and_guidance_of_later_passes_are_the_same_for_every_layout(
    ranks: Callable[[int], Ranks], model_dir: Path, enlargement: Enlargement
) -> None:
    """Without guidance both halves' ranks share the later pass."""
    highres = Highres(refine=True, strength=0.5, window_px=64, guidance_scale=1.0, enlargement=enlargement)
    image = replace(REFINED, highres=highres, width=203, height=155)
    whole = replace(image, highres=replace(highres, window_px=None))
    alone, whole_alone = ranks(1).run(on_ranks.render, model_dir, "1x1x1", EXACT, [image, whole])[0]
    found = ranks(4).run(on_ranks.render, model_dir, "1x2x2", EXACT, [image])[0][0]
    assert np.abs(found.pixels.astype(int) - alone.pixels).max() <= 1
    assert [stage.window_px for stage in found.stages] == [None, 64]
    assert np.abs(whole_alone.pixels.astype(int) - alone.pixels).max() > 1


def test_low_frequencies_are_what_a_smaller_size_can_hold() -> None:
    smooth, fine = covering(seeded(3, 1, 4, 6, 6), 24, 24), torch.ones(1, 4, 24, 24, dtype=torch.float64)
    fine[..., ::2] = -1
    assert relative(low_frequencies(smooth, 12, 12), smooth) < 0.1
    assert low_frequencies(fine, 12, 12).abs().max() < 0.2


def test_guidance_in_later_passes_alone_is_refused(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    image = replace(REFINED, guidance_scale=1.0, highres=replace(REFINED.highres, guidance_scale=5.0))
    with pytest.raises(BadImage, match="the first pass is not guided"):
        engine.render(image, control=lambda: Control.GO)


def test_a_padded_picture_says_its_canvas_and_where_it_was_cut(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    odd, plain = (
        engine.render(replace(IMAGES["direct, odd size"], width=width, steps=1), control=lambda: Control.GO)
        for width in (131, 136)
    )
    assert (odd.canvas, odd.crop) == ((136, 120), (2, 1))
    assert (plain.canvas, plain.crop) == ((136, 120), (0, 1))
    assert len(odd.warnings) == 1


def test_a_picture_is_enlarged_without_a_shift_and_cut_evenly() -> None:
    ramp = torch.linspace(-1, 1, 32).view(1, 1, 1, 32).expand(1, 3, 16, 32)
    wide = enlarged(ramp, 32, 64)
    cut = enlarged(ramp, 32, 48)
    assert wide.shape == (1, 3, 32, 64)
    torch.testing.assert_close(cut, wide[..., 8:56])
    torch.testing.assert_close(wide, -wide.flip(3), atol=1e-5, rtol=0)
