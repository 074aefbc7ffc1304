"""Every image can be rendered by itself, whatever was rendered before it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.adapters.lora import Lora
from distri.model.image import ImageSpec, Rendered
from distri.model.passes.stages import Highres
from distri.model.text.prompts import LongPrompt
from distri.sampling.control import Control
from tests.distri import loras, on_ranks, reference
from tests.distri.pool import Ranks

FAST, EXACT = EngineSettings(warmup=1, native_px=96), EngineSettings(exact=True, native_px=96)
PLAIN = ImageSpec("a cat", None, seed=7, width=96, height=128, steps=4, guidance_scale=5.0)
REFINED = replace(PLAIN, seed=8, width=168, height=144, highres=Highres(refine=True, strength=0.5))
STOCHASTIC = replace(REFINED, seed=9, scheduler="EulerAncestralDiscreteScheduler", width=161)
LONG = replace(PLAIN, seed=10, prompt="a photo of a cat " * 30, long_prompt=LongPrompt.CHUNK)


def _alone(model_dir: Path, layout: str, settings: EngineSettings, image: ImageSpec) -> Rendered:
    """By an engine that has rendered nothing else."""
    engine = Engine.load(model_dir, on_ranks.mesh(layout), dtype=torch.float32, settings=settings)
    return engine.render(image, control=lambda: Control.GO)


@pytest.fixture(scope="module")
def images(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ImageSpec]:
    path = loras.peft(tmp_path_factory.mktemp("lora") / "one.safetensors", reference.pipeline(model_dir).components)
    return [PLAIN, REFINED, LONG, replace(PLAIN, seed=11, loras=(Lora(path, 0.8),)), STOCHASTIC]


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x1x2"), (3, "1x1x3")])
def test_an_image_is_the_same_bit_for_bit_alone_and_among_others(
    ranks: Callable[[int], Ranks], model_dir: Path, images: list[ImageSpec], count: int, layout: str
) -> None:
    among = ranks(count).run(on_ranks.render, model_dir, layout, FAST, [*images, *images[::-1]])[0]
    for place, image in enumerate(images):
        alone = ranks(count).run(_alone, model_dir, layout, FAST, image)[0]
        assert np.array_equal(alone.pixels, among[place].pixels)
        assert np.array_equal(alone.pixels, among[-1 - place].pixels)


@pytest.mark.parametrize(("count", "layout"), [(2, "1x1x2"), (3, "1x1x3")])
def test_an_image_that_settles_is_the_same_after_one_that_came_to_its_shape_late(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    """Buffers of a shape are made when the first image has it, and that one displaces all at once by then."""
    settings = replace(FAST, settling=3)
    late = replace(PLAIN, steps=8, guidance_interval=(0.0, 0.5))
    image = replace(PLAIN, seed=12, steps=8, guidance_scale=1.0)
    alone = ranks(count).run(_alone, model_dir, layout, settings, image)[0]
    after = ranks(count).run(on_ranks.render, model_dir, layout, settings, [late, image])[0][1]
    assert np.array_equal(alone.pixels, after.pixels)


def test_an_exact_image_is_the_same_within_a_level_in_another_layout(
    ranks: Callable[[int], Ranks], model_dir: Path, images: list[ImageSpec]
) -> None:
    single = ranks(1).run(on_ranks.render, model_dir, "1x1x1", EXACT, images)[0]
    for count, layout in ((2, "1x2x1"), (3, "1x1x3")):
        other = ranks(count).run(on_ranks.render, model_dir, layout, EXACT, images)[0]
        for one, found in zip(single, other, strict=True):
            assert np.abs(one.pixels.astype(int) - found.pixels.astype(int)).max() <= 1
