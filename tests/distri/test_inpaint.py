"""Inpainting: on every number of ranks the latent that diffusers' own pipeline makes, and the rest bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from distri.engine import EngineSettings
from distri.model.image import Evaluations, ImageSpec, Inpaint, Pixels, StartPicture
from distri.model.passes.stages import Highres
from distri.ranks.errors import BadImage
from distri.sampling.certainty import SEEDS
from distri.sampling.planning import plan_of
from distri.sampling.scene import Scene, shares_of
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True, native_px=96)


def _pixels(height: int, width: int) -> Pixels:
    return np.random.default_rng(3).integers(0, 255, (height, width, 3)).astype(np.uint8)


def _mask(height: int, width: int) -> Pixels:
    """An ellipse off the middle, whose edge goes through blocks of eight pixels."""
    row, column = np.mgrid[:height, :width]
    inside = ((row - 0.6 * height) / (0.27 * height)) ** 2 + ((column - 0.4 * width) / (0.21 * width)) ** 2 < 1
    return np.where(inside, 255, 0).astype(np.uint8)


def _start(height: int, width: int, strength: float, **inpaint: Any) -> StartPicture:
    painted = Inpaint(mask=_mask(height, width), **inpaint)
    return StartPicture(width, height, strength, pixels=_pixels(height, width), inpaint=painted)


PLAIN = ImageSpec(
    "a photo of a cat",
    "blurry",
    seed=7,
    width=136,
    height=96,
    steps=4,
    guidance_scale=5.0,
    picture=_start(96, 136, 1.0),
)
IMAGES = {
    "from noise": PLAIN,
    "odd size, less strength, another scheduler": replace(
        PLAIN, width=139, height=93, picture=_start(93, 139, 0.6), scheduler="DPMSolverMultistepScheduler"
    ),
    "large, twice a step": replace(
        PLAIN, width=120, height=168, steps=2, picture=_start(168, 120, 1.0), scheduler="HeunDiscreteScheduler"
    ),
}


@cache
def _reference(directory: Path, name: str) -> torch.Tensor:
    """diffusers' inpainting, whose mask has every block of eight pixels of which one is masked."""
    image = IMAGES[name]
    start = image.picture
    assert start is not None
    assert start.inpaint is not None
    assert start.pixels is not None
    assert start.inpaint.mask is not None
    parts = reference.pipeline(directory).components | {"scheduler": reference.scheduler(directory, image)}
    pipe: Any = diffusers.StableDiffusionXLInpaintPipeline(
        **{name: part for name, part in parts.items() if name not in ("feature_extractor", "image_encoder")},
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    rows, columns = -(-image.height // 8) * 8, -(-image.width // 8) * 8
    top, left = (rows - image.height) // 2, (columns - image.width) // 2
    edges = ((top, rows - image.height - top), (left, columns - image.width - left))
    whole = np.pad(start.pixels.astype(np.float32) / 127.5 - 1, (*edges, (0, 0)), mode="edge")
    mask = np.pad(start.inpaint.mask, edges, mode="edge").reshape(rows // 8, 8, columns // 8, 8).max(axis=(1, 3))
    with torch.inference_mode():
        picture = torch.from_numpy(whole).permute(2, 0, 1)[None]
        latent = parts["vae"].encode(picture).latent_dist.mean * parts["vae"].config.scaling_factor
    size = image.height, image.width
    found: torch.Tensor = pipe(
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        image=latent,
        mask_image=torch.from_numpy(mask.repeat(8, 0).repeat(8, 1)).float()[None, None] / 255,
        height=rows,
        width=columns,
        strength=start.strength,
        num_inference_steps=image.steps,
        guidance_scale=image.guidance_scale,
        original_size=size,
        target_size=size,
        generator=torch.Generator().manual_seed(image.seed),
        output_type="latent",
    ).images
    return found


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3"), (5, "1x1x5")])
def test_the_latent_of_diffusers_on_every_number_of_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    answers = ranks(count).run(on_ranks.latents, model_dir, layout, EXACT, list(IMAGES.values()))[0]
    for (name, image), (latent, rendered) in zip(IMAGES.items(), answers, strict=True):
        assert (latent - _reference(model_dir, name)).abs().max() < 1e-4, name
        assert image.picture is not None
        assert image.picture.inpaint is not None
        assert image.picture.pixels is not None
        kept = image.picture.inpaint.mask == 0
        assert np.array_equal(rendered.pixels[kept], image.picture.pixels[kept]), name
        assert not np.array_equal(rendered.pixels[~kept], image.picture.pixels[~kept]), name


IN_ROUNDS = replace(PLAIN, picture=_start(96, 136, 1.0, rounds=3), steps=4, guidance_scale=1.0, negative_prompt=None)


@pytest.mark.parametrize(("count", "layout"), [(2, "1x1x2"), (3, "1x1x3")])
def test_a_hole_that_is_filled_in_rounds_is_the_same_on_every_number_of_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    latent, rendered = ranks(1).run(on_ranks.latents, model_dir, "1x1x1", EXACT, [IN_ROUNDS])[0][0]
    (own, again), *_ = ranks(count).run(on_ranks.latents, model_dir, layout, EXACT, [IN_ROUNDS])[0]
    assert (own - latent).abs().max() < 1e-4
    assert rendered.evaluations == again.evaluations == Evaluations(2 * SEEDS * 4 + 4, 0)
    start = IN_ROUNDS.picture
    assert start is not None
    assert start.inpaint is not None
    assert start.pixels is not None
    kept = start.inpaint.mask == 0
    assert np.array_equal(again.pixels[kept], start.pixels[kept])
    assert not np.array_equal(again.pixels[~kept], start.pixels[~kept])
    displaced = EngineSettings(warmup=1, native_px=96)
    (stale, third), *_ = ranks(count).run(on_ranks.latents, model_dir, layout, displaced, [IN_ROUNDS])[0]
    assert third.evaluations == Evaluations(2 * SEEDS * 4 + 1, 3)  # where noise is new, nothing stale is of use
    assert torch.isfinite(stale).all()


def test_what_is_filled_in_rounds_begins_with_noise() -> None:
    for picture, message in (
        (_start(96, 136, 0.5, rounds=2), "strength 0.5: 1 wanted"),
        (_start(96, 136, 1.0, rounds=0), "at least 1"),
    ):
        with pytest.raises(BadImage, match=message):
            plan_of(replace(PLAIN, picture=picture), 96)


def test_a_region_is_rendered_alone_and_pasted_into_the_rest(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    region = (40, 24, 120, 104)
    start = _start(150, 200, 1.0, region=region)
    image = replace(PLAIN, width=96, height=96, steps=2, picture=start)
    (_, found), (_, again) = ranks(1).run(on_ranks.latents, model_dir, "1x1x1", EXACT, [image, image])[0]
    assert found.pixels.shape == (150, 200, 3)
    assert np.array_equal(found.pixels, again.pixels)
    assert [(one.width, one.height) for one in found.stages] == [(96, 96)]
    assert start.inpaint is not None
    assert start.pixels is not None
    kept = np.ones((150, 200), bool)
    kept[24:104, 40:120] = start.inpaint.mask[24:104, 40:120] == 0  # type: ignore[index]
    assert np.array_equal(found.pixels[kept], start.pixels[kept])


def test_what_stays_stays_in_every_pass_of_a_picture_that_is_enlarged(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    small = _start(64, 64, 1.0)
    large = replace(PLAIN, width=160, height=160, steps=2, picture=small, highres=Highres(refine=True, strength=0.5))
    (_, found), (_, plain) = ranks(1).run(
        on_ranks.latents, model_dir, "1x1x1", EXACT, [large, replace(large, prompt="a dog", seed=8)]
    )[0]
    assert len(found.stages) == 2
    outside = _mask(160, 160) == 0
    outside &= np.roll(outside, 4, 0) & np.roll(outside, -4, 0) & np.roll(outside, 4, 1) & np.roll(outside, -4, 1)
    assert np.array_equal(found.pixels[outside], plain.pixels[outside])
    assert not np.array_equal(found.pixels, plain.pixels)


def test_a_mask_grows_and_fades_outwards() -> None:
    mask = np.zeros((41, 61), np.uint8)
    mask[20, 20:31] = 255
    assert shares_of(mask, 0, 0).sum() == 11
    grown = shares_of(mask, 3, 0).numpy()
    assert set(np.unique(grown)) == {0, 1}
    assert (grown[17:24, 17:34].min(), grown.sum()) == (1, 7 * 17)
    row = shares_of(mask, 3, 8)[20]
    assert row[17:34].min() == 1
    assert (row[33:43].diff() < 0).all()
    assert row[43:].max() == 0
    assert row[:8].max() == 0
    everywhere = shares_of(np.full((9, 9), 200, np.uint8), 0, 6)
    assert everywhere.min() == 1


def test_a_feather_passes_from_the_new_picture_into_the_old_one() -> None:
    start = replace(_start(40, 40, 1.0, feather=6), pixels=np.zeros((40, 40, 3), np.uint8))
    assert start.inpaint is not None
    scene = Scene.of(start, start.inpaint, _mask(40, 40))
    found = scene.pasted(np.full((40, 40, 3), 200, np.uint8))
    assert np.array_equal(found[..., 0], (scene.shares * 200).round().numpy())
    assert np.count_nonzero((found > 0) & (found < 200)) > 0
