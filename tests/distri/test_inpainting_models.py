"""Models of nine channels: on every number of ranks the latent that diffusers' own pipelines make."""

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
from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, ImageSpec, Inpaint, Pixels, StartPicture
from distri.ranks.errors import BadImage
from distri.sampling.control import Control
from tests.distri import controlnets, inpainting_models, on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True, native_px=96)


def _pixels(height: int, width: int, seed: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def _start(height: int, width: int, strength: float, **inpaint: Any) -> StartPicture:
    """A picture and a mask of whole elements of the latent, off the middle."""
    top, left = -(-height // 8) * 8 - height, -(-width // 8) * 8 - width
    mask = np.zeros((height, width), np.uint8)
    mask[32 - top // 2 : 72 - top // 2, 24 - left // 2 : 88 - left // 2] = 255
    return StartPicture(width, height, strength, pixels=_pixels(height, width), inpaint=Inpaint(mask=mask, **inpaint))


PLAIN = ImageSpec(
    "a photo of a cat",
    "blurry",
    seed=7,
    width=136,
    height=96,
    steps=3,
    guidance_scale=5.0,
    picture=_start(96, 136, 1.0),
)
# Control networks are named by their number, of which `_placed` makes the file.
IMAGES = {
    "from noise": PLAIN,
    "odd size, less strength, another scheduler": replace(
        PLAIN, width=139, height=93, picture=_start(93, 139, 0.7), scheduler="DPMSolverMultistepScheduler"
    ),
    "large, steered, without guidance": replace(
        PLAIN,
        width=120,
        height=168,
        guidance_scale=1.0,
        picture=_start(168, 120, 1.0),
        control=(ControlPicture(ControlNet(Path("1")), pixels=_pixels(168, 120, 4)),),
    ),
}


@pytest.fixture(scope="session")
def painter(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inpainting_models.write(tmp_path_factory.mktemp("painter") / "model", model_dir)


def _placed(model_dir: Path, image: ImageSpec) -> ImageSpec:
    network = ControlNet(controlnets.file(model_dir, 1))
    return replace(image, control=tuple(replace(one, network=network) for one in image.control))


@cache
def _reference(model_dir: Path, painter: Path, name: str) -> torch.Tensor:
    """diffusers' pipeline for it; pictures go on at their borders up to the next multiple of 8."""
    image = IMAGES[name]
    start = image.picture
    assert start is not None
    assert start.pixels is not None
    assert start.inpaint is not None
    assert start.inpaint.mask is not None
    parts = reference.pipeline(painter).components | {"scheduler": reference.scheduler(painter, image)}
    parts = {part: one for part, one in parts.items() if part not in ("feature_extractor", "image_encoder")}
    rows, columns = -(-image.height // 8) * 8, -(-image.width // 8) * 8
    top, left = (rows - image.height) // 2, (columns - image.width) // 2
    edges = ((top, rows - image.height - top), (left, columns - image.width - left))

    def whole(pixels: Pixels) -> torch.Tensor:
        padded = np.pad(pixels.astype(np.float32), (*edges, (0, 0)), mode="edge")
        return torch.from_numpy(padded).permute(2, 0, 1)[None] / 255

    kind: Any = diffusers.StableDiffusionXLInpaintPipeline
    arguments: dict[str, Any] = {"strength": start.strength}
    if image.control:
        kind = diffusers.StableDiffusionXLControlNetInpaintPipeline
        parts["controlnet"] = controlnets.network(model_dir, 1)
        assert image.control[0].pixels is not None
        arguments["control_image"] = whole(image.control[0].pixels)
    pipe: Any = kind(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)

    def encoded(image: torch.Tensor, **_: Any) -> torch.Tensor:
        """The mean, without a draw."""
        scaled: torch.Tensor = parts["vae"].encode(image).latent_dist.mean * parts["vae"].config.scaling_factor
        return scaled

    pipe._encode_vae_image = encoded
    found: torch.Tensor = pipe(
        **arguments,
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        image=whole(start.pixels),
        mask_image=torch.from_numpy(np.pad(start.inpaint.mask, edges)).float()[None, None] / 255,
        height=rows,
        width=columns,
        num_inference_steps=image.steps,
        guidance_scale=image.guidance_scale,
        original_size=(image.height, image.width),
        target_size=(image.height, image.width),
        generator=torch.Generator().manual_seed(image.seed),
        output_type="latent",
    ).images
    return found


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3"), (5, "1x1x5")])
def test_the_latent_of_diffusers_on_every_number_of_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, painter: Path, count: int, layout: str
) -> None:
    images = [_placed(model_dir, image) for image in IMAGES.values()]
    answers = ranks(count).run(on_ranks.latents, painter, layout, EXACT, images)[0]
    for (name, image), (latent, rendered) in zip(IMAGES.items(), answers, strict=True):
        assert (latent - _reference(model_dir, painter, name)).abs().max() < 1e-4, name
        assert image.picture is not None
        assert image.picture.inpaint is not None
        assert image.picture.pixels is not None
        kept = image.picture.inpaint.mask == 0
        assert np.array_equal(rendered.pixels[kept], image.picture.pixels[kept]), name
        assert not np.array_equal(rendered.pixels[~kept], image.picture.pixels[~kept]), name


def test_displaced_evaluations_come_near(ranks: Callable[[int], Ranks], painter: Path) -> None:
    image = replace(PLAIN, steps=6)
    ((exact, _),) = ranks(1).run(on_ranks.latents, painter, "1x1x1", EXACT, [image])[0]
    settings = EngineSettings(warmup=2, native_px=96)
    ((latent, rendered),) = ranks(2).run(on_ranks.latents, painter, "1x1x2", settings, [image])[0]
    assert (rendered.evaluations.synchronous, rendered.evaluations.displaced) == (2, 4)
    assert 1e-6 < (latent - exact).norm() / exact.norm() < 0.1


def _refusals(painter: Path, images: list[ImageSpec]) -> list[str]:
    engine, found = on_ranks.engine(painter, "1x1x1", EXACT), []
    for image in images:
        with pytest.raises(BadImage) as refused:
            engine.render(image, control=lambda: Control.GO)
        found.append(str(refused.value))
    return found


def test_an_image_without_a_mask_is_refused(ranks: Callable[[int], Ranks], painter: Path) -> None:
    begun = StartPicture(136, 96, 0.5, pixels=_pixels(96, 136))
    images = [replace(PLAIN, picture=None), replace(PLAIN, picture=begun)]
    wanted = "the model paints masked parts of pictures alone: a picture and its mask wanted"
    assert ranks(1).run(_refusals, painter, images) == [[wanted, wanted]]
