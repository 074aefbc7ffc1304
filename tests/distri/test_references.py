"""IP-Adapters: on every number of ranks the latent that diffusers' own pipeline makes with the same files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from distri.engine import Engine, EngineSettings
from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, ImageSpec, Pixels, StartPicture
from distri.model.model import load
from distri.model.passes.stages import Highres
from distri.model.reference.ip_adapter import IPAdapter
from distri.model.reference.references import ReferencePicture, References
from distri.ranks.errors import BadReference
from distri.ranks.mesh import Mesh
from distri.ranks.recorder import Replay
from distri.sampling.control import Control
from tests.distri import controlnets, ip_adapters, on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True, native_px=96)
PLAIN = ImageSpec("a photo of a cat", "blurry", seed=7, width=136, height=96, steps=3, guidance_scale=5.0)


def _pixels(height: int, width: int, seed: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def _mask(height: int, width: int) -> Pixels:
    """White but for the upper left, with a slanting edge."""
    row, column = np.mgrid[:height, :width]
    return np.where(row / height + column / width > 0.8, 255, 0).astype(np.uint8)


@dataclass(frozen=True)
class Files:
    """An adapter of each kind, and a picture for each."""

    plain: ReferencePicture
    plus: ReferencePicture


@pytest.fixture(scope="module")
def files(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("adapters")
    encoder = ip_adapters.write_encoder(folder / "image_encoder")
    unet: Any = reference.pipeline(model_dir).unet
    plain = ip_adapters.write_adapter(folder / "plain.safetensors", unet, encoder)
    plus = ip_adapters.write_adapter(folder / "plus.safetensors", unet, encoder, plus=True, seed=2)
    return Files(
        ReferencePicture(plain, "a" * 64, 0.8, _pixels(50, 70)),
        ReferencePicture(plus, "b" * 64, 0.6, _pixels(64, 40, seed=4)),
    )


def _images(directory: Path, files: Files) -> dict[str, ImageSpec]:
    network = ControlNet(controlnets.file(directory, 1))
    return {
        "plain": replace(PLAIN, references=(files.plain,)),
        "plus, odd size, without guidance": replace(
            PLAIN, width=139, height=93, references=(files.plus,), guidance_scale=1.0
        ),
        "both, masks, another scheduler": replace(
            PLAIN,
            width=120,
            height=168,
            scheduler="DPMSolverMultistepScheduler",
            references=(
                replace(files.plain, mask=_mask(168, 120)),
                replace(files.plus, mask=255 - _mask(168, 120)),
            ),
        ),
        "beside a ControlNet": replace(
            PLAIN, steps=2, references=(files.plain,), control=(ControlPicture(network, 0.7, pixels=_pixels(96, 136)),)
        ),
        "no reference": PLAIN,
    }


def _reference(directory: Path, image: ImageSpec) -> torch.Tensor:
    """diffusers' pipeline with a UNet of its own, since adapters change it."""
    unet: Any = UNet2DConditionModel
    parts = reference.pipeline(directory).components | {
        "unet": unet.from_pretrained(directory / "unet", local_files_only=True),
        "scheduler": reference.scheduler(directory, image),
    }
    given: dict[str, Any] = {}
    if image.references:
        parts |= ip_adapters.parts_of(image.references[0].adapter.encoder)
    kind: Any = diffusers.StableDiffusionXLPipeline
    if image.control:
        kind = diffusers.StableDiffusionXLControlNetPipeline
        parts["controlnet"] = [controlnets.network(directory, 1)]
        pixels = image.control[0].pixels
        assert pixels is not None
        given["image"] = [torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]]
        given["controlnet_conditioning_scale"] = [image.control[0].scale]
    pipe: Any = kind(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    height, width = -(-image.height // 8) * 8, -(-image.width // 8) * 8
    if image.references:
        given |= ip_adapters.loaded_into(pipe, image.references, height, width)
    size = image.height, image.width
    found: torch.Tensor = pipe(
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        num_inference_steps=image.steps,
        guidance_scale=image.guidance_scale,
        width=width,
        height=height,
        original_size=size,
        target_size=size,
        generator=torch.Generator().manual_seed(image.seed),
        output_type="latent",
        **given,
    ).images
    return found


@pytest.fixture(scope="module")
def wanted(model_dir: Path, files: Files) -> dict[str, tuple[ImageSpec, torch.Tensor]]:
    """Images, and what diffusers makes of them."""
    return {name: (image, _reference(model_dir, image)) for name, image in _images(model_dir, files).items()}


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3"), (5, "1x1x5")])
def test_the_latent_of_diffusers_on_every_number_of_ranks(
    ranks: Callable[[int], Ranks],
    model_dir: Path,
    wanted: dict[str, tuple[ImageSpec, torch.Tensor]],
    count: int,
    layout: str,
) -> None:
    images = [image for image, _ in wanted.values()]
    answers = ranks(count).run(on_ranks.latents, model_dir, layout, EXACT, images)[0]
    for (name, (_, latent)), (found, _) in zip(wanted.items(), answers, strict=True):
        assert (found - latent).abs().max() < 1e-4, name
    assert (wanted["plain"][1] - wanted["no reference"][1]).abs().max() > 0.1


def _displaced(model_dir: Path, layout: str, replay: Replay, images: list[ImageSpec]) -> tuple[list[Any], set[str]]:
    """One by one, and two in slots; what was recorded."""
    settings = EngineSettings(warmup=1, native_px=96, replay=replay)
    engine = Engine.load(model_dir, on_ranks.mesh(layout), dtype=torch.float32, settings=settings)
    rendered = [engine.render(image, control=lambda: Control.GO) for image in images]
    for _ in range(2):
        rendered += engine.render_batch(images, control=lambda: Control.GO)
    return rendered, {str(span.detail["refused"]) for span in engine.spans if span.track == "replay"}


def test_references_displaced_replayed_and_in_slots(
    ranks: Callable[[int], Ranks], model_dir: Path, files: Files
) -> None:
    small = replace(PLAIN, width=96, height=72)
    one = replace(small, references=(replace(files.plain, mask=_mask(72, 96)),), guidance_interval=(0.3, 1.0))
    other = replace(one, seed=8, references=(replace(files.plain, scale=0.3, mask=255 - _mask(72, 96)),))
    images = [one, other]
    (plain, _), (replayed, refused) = (
        ranks(2).run(_displaced, model_dir, "1x1x2", replay, images)[0] for replay in (Replay.NEVER, Replay.OPERATORS)
    )
    assert refused == {"None"}
    for found, wanted in zip(replayed, plain, strict=True):
        assert np.array_equal(found.pixels, wanted.pixels)
    assert plain[0].evaluations.displaced > 0
    for found, alone in zip(plain[2:4], plain[:2], strict=True):
        assert found.others == 1
        assert np.abs(found.pixels.astype(int) - alone.pixels.astype(int)).max() <= 1
    assert not np.array_equal(plain[0].pixels, plain[1].pixels)


def test_images_with_other_kinds_of_references_are_not_rendered_together(model_dir: Path, files: Files) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    renders = engine.renders(control=lambda: Control.GO, slots=3)
    renders.join(replace(PLAIN, steps=2, references=(files.plain,)))
    renders.advance(1)
    others = [(), (files.plus,), (replace(files.plain, mask=_mask(96, 136)),), (files.plain, files.plain)]
    assert not any(renders.admits(replace(PLAIN, references=one)) for one in others)
    assert renders.admits(replace(PLAIN, references=(replace(files.plain, scale=0.1, sha256="c" * 64),)))
    while renders.count:
        renders.advance()


def test_references_with_a_picture_that_is_enlarged_in_passes(
    ranks: Callable[[int], Ranks], model_dir: Path, files: Files
) -> None:
    start = StartPicture(64, 64, 0.7, pixels=_pixels(64, 64))
    plain = replace(PLAIN, width=144, height=144, steps=2, picture=start, highres=Highres(refine=True, strength=0.5))
    image = replace(plain, references=(replace(files.plain, mask=_mask(144, 144)),))
    found = {
        layout: ranks(count).run(on_ranks.latents, model_dir, layout, EXACT, [image, plain])[0]
        for count, layout in ((1, "1x1x1"), (3, "1x1x3"))
    }
    (latent, rendered), (without, _) = found["1x1x1"]
    assert len(rendered.stages) == 2
    assert (latent - found["1x1x3"][0][0]).abs().max() < 1e-4
    assert (latent - without).abs().max() > 0.1


def test_a_picture_is_embedded_once(model_dir: Path, files: Files, tmp_path: Path) -> None:
    model = load(model_dir, device=torch.device("cpu"), dtype=torch.float32)
    encoder = ip_adapters.write_encoder(tmp_path / "encoder")
    adapter = replace(files.plain.adapter, encoder=encoder)
    own = References(model, Mesh.single())
    (first,) = own.read([replace(files.plain, adapter=adapter)])
    (encoder / "model.safetensors").unlink()
    (again,) = own.read([replace(files.plain, adapter=adapter, scale=0.1, pixels=None)])
    assert again.tokens is first.tokens
    assert again.rows(None, negative=True).scales.item() == pytest.approx(0.1)


def _refusals(model_dir: Path, images: list[ImageSpec]) -> list[str]:
    engine, found = on_ranks.engine(model_dir, "1x1x2", EXACT), []
    for image in images:
        with pytest.raises(BadReference) as caught:
            engine.render(image, control=lambda: Control.GO)
        found.append(str(caught.value))
    engine.render(PLAIN, control=lambda: Control.GO)
    return found


def test_files_that_do_not_fit_are_refused_on_all_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, files: Files, tmp_path: Path
) -> None:
    stored = load_file(files.plain.adapter.path)

    def changed(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> IPAdapter:
        own = dict(stored)
        change(own)
        save_file(own, tmp_path / f"{name}.safetensors")
        return replace(files.plain.adapter, path=tmp_path / f"{name}.safetensors")

    def of_sd15(own: dict[str, torch.Tensor]) -> None:
        own |= {key: torch.ones(len(value), 768) for key, value in own.items() if "_ip." in key}

    (tmp_path / "pickle.bin").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").mkdir()
    adapters = {
        "SD 1.x": changed("old", of_sd15),
        "FaceID is not": changed("face", lambda own: own.update({"ip_adapter.0.to_k_lora.down.weight": torch.ones(1)})),
        "no tensors named image_proj": changed("none", lambda own: [own.pop(key) for key in [*own] if "proj" in key]),
        "neither IP-Adapter's": changed("odd", lambda own: own.pop("image_proj.norm.bias")),
        "not finite": changed("damaged", lambda own: own.update({"image_proj.norm.bias": torch.full((1,), np.nan)})),
        "it has no 1.to_k_ip": changed("fewer", lambda own: own.pop("ip_adapter.1.to_k_ip.weight")),
        "another image encoder": changed(
            "big",
            lambda own: own.update(
                {"image_proj.proj.weight": torch.ones(own["image_proj.proj.weight"].shape[0], 1280)}
            ),
        ),
        "pickle": replace(files.plain.adapter, path=tmp_path / "pickle.bin"),
        "SHA-256": replace(files.plain.adapter, sha256="0" * 64),
        "SHA-256 of its model.safetensors": replace(files.plain.adapter, encoder_sha256="0" * 64),
        "cannot be read": replace(files.plain.adapter, encoder=tmp_path / "empty"),
    }
    images = [replace(PLAIN, references=(replace(files.plain, adapter=one),)) for one in adapters.values()]
    for answers in ranks(2).run(_refusals, model_dir, images):
        for wanted, found in zip(adapters, answers, strict=True):
            assert wanted in found
