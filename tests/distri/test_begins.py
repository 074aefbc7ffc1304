"""Image to image: on every number of ranks the picture that diffusers' own pipeline makes of the same latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from distri.engine import EngineSettings
from distri.model.image import Fit, ImageSpec, StartPicture
from distri.model.passes.stages import Highres, Start, plan_stages
from distri.sampling.pixels import placed
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True, native_px=96)


def _pixels(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 255, (height, width, 3)).astype(np.uint8)


def _start(height: int, width: int, strength: float) -> StartPicture:
    return StartPicture(width, height, strength, pixels=_pixels(height, width))


START = _start(96, 136, 0.6)
PLAIN = ImageSpec(
    "a photo of a cat", "blurry", seed=7, width=136, height=96, steps=5, guidance_scale=5.0, picture=START
)
IMAGES = {
    "plain": PLAIN,
    "odd size, another scheduler": replace(
        PLAIN,
        width=101,
        height=77,
        picture=_start(77, 101, 0.45),
        scheduler="DPMSolverMultistepScheduler",
    ),
    "twice a step": replace(PLAIN, picture=replace(START, strength=1.0), scheduler="HeunDiscreteScheduler"),
}


def _reference(directory: Path, image: ImageSpec) -> np.ndarray[Any, np.dtype[np.float32]]:
    """diffusers' image to image; the picture's border goes on to the next multiple of 8, as `placed` has it."""
    assert image.picture is not None
    parts = reference.pipeline(directory).components | {"scheduler": reference.scheduler(directory, image)}
    pipe: Any = diffusers.StableDiffusionXLImg2ImgPipeline(
        **{name: part for name, part in parts.items() if name not in ("feature_extractor", "image_encoder")},
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    rows, columns = -(-image.height // 8) * 8, -(-image.width // 8) * 8
    top, left = (rows - image.height) // 2, (columns - image.width) // 2
    edges = ((top, rows - image.height - top), (left, columns - image.width - left), (0, 0))
    assert image.picture.pixels is not None
    whole = np.pad(image.picture.pixels.astype(np.float32) / 127.5 - 1, edges, mode="edge")
    with torch.inference_mode():
        picture = torch.from_numpy(whole).permute(2, 0, 1)[None]
        latent = parts["vae"].encode(picture).latent_dist.mean * parts["vae"].config.scaling_factor
    size = image.height, image.width
    found = pipe(
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        image=latent,
        strength=image.picture.strength,
        num_inference_steps=image.steps,
        guidance_scale=image.guidance_scale,
        original_size=size,
        target_size=size,
        generator=torch.Generator().manual_seed(image.seed),
        output_type="latent",
    ).images
    return reference.decoded(directory, found)[top : top + image.height, left : left + image.width]


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_the_picture_of_diffusers_on_every_number_of_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    answers = ranks(count).run(on_ranks.render, model_dir, layout, EXACT, list(IMAGES.values()))[0]
    for (name, image), found in zip(IMAGES.items(), answers, strict=True):
        wanted = _reference(model_dir, image)
        assert np.abs(found.pixels - wanted * 255).max() < 1, name
        assert found.stages[0].strength == (image.picture.strength if image.picture else None)


def test_enlarging_begins_with_the_picture_and_goes_on_in_passes(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    large = replace(PLAIN, width=544, height=384, highres=Highres(refine=True, strength=0.3, steps=4))
    found = ranks(1).run(on_ranks.render, model_dir, "", EXACT, [large])[0][0]
    assert [(one.width, one.height, one.strength) for one in found.stages] == [(272, 192, 0.6), (544, 384, 0.3)]
    assert found.pixels.shape == (384, 544, 3)


def test_passes_that_a_picture_takes() -> None:
    def sizes(start: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
        begun = Start(*start, 0.5)
        plan = plan_stages(*size, steps=9, seed=1, highres=Highres(refine=True), native_px=1024, start=begun)
        assert plan.stages[0].seed == 1
        return [stage.size for stage in plan.stages]

    assert sizes((1024, 1024), (4096, 4096)) == [(2048, 2048), (4096, 4096)]
    assert sizes((1024, 1024), (2048, 2048)) == [(2048, 2048)]
    assert sizes((2048, 2048), (1024, 1024)) == [(1024, 1024)]


@pytest.mark.parametrize("fit", list(Fit))
def test_where_a_picture_lies(fit: Fit) -> None:
    """On the left half dark, on the right half light: 200x100 on a canvas of 96x96 for an image of 90x90."""
    picture = torch.full((1, 3, 100, 200), -1.0)
    picture[..., 100:] = 1.0
    (canvas,) = plan_stages(90, 90, steps=1, seed=0, highres=Highres(), native_px=96).stages
    found = placed(picture, fit, (90, 90), canvas, (3, 3))
    assert found.shape == (1, 3, 96, 96)
    row = found[0, 0, 48]
    assert row[:40].max() < -0.9
    assert row[56:].min() > 0.9
    assert row[[0, -1]].tolist() == [-1, 1]  # the border goes on
