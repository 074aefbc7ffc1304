"""Control networks of the demo model with random weights, equal wherever they are made, and diffusers' pictures."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file

from distri.model.image import ImageSpec, Pixels
from tests.distri import reference

ADAPTERS, UNIONS = 10, 20  # numbers from here on are those of T2I-Adapters, and of ControlNet-Unions


@cache
def network(directory: Path, number: int = 1) -> Any:
    """A diffusers `ControlNetModel` of the model in `directory` that adds as much as the UNet itself has there.

    From `ADAPTERS` on a `T2IAdapter`, for pictures of grey where the number is odd, from `UNIONS` on a
    `ControlNetUnionModel` of six modes.
    """
    if ADAPTERS <= number < UNIONS:
        return _adapter(directory, number)
    unet = reference.pipeline(directory).unet
    made: Any = diffusers.ControlNetModel.from_unet(unet) if number < UNIONS else _union(unet)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "controlnet" in name or number > 1:
                spread = 0.05 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return made.eval().requires_grad_(False)


def _union(unet: Any) -> Any:
    """A `ControlNetUnionModel` of the UNet's widths and weights; diffusers' `from_unet` knows SDXL's widths alone."""
    known = inspect.signature(diffusers.ControlNetUnionModel.__init__).parameters
    config = {name: value for name, value in unet.config.items() if name in known}
    kind: Any = diffusers.ControlNetUnionModel
    width = unet.config.block_out_channels[0]
    union = kind(
        **config | {"conditioning_embedding_out_channels": (16, 32, 96, 256)},
        num_trans_channel=width,
        num_proj_channel=width,
    )
    for part in ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block"):
        getattr(union, part).load_state_dict(getattr(unet, part).state_dict())
    return union


def _adapter(directory: Path, number: int) -> Any:
    widths = list(reference.pipeline(directory).unet.config.block_out_channels)
    made: Any = diffusers.T2IAdapter(1 if number % 2 else 3, [*widths, widths[-1]], 2, 16, "full_adapter_xl")
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in made.parameters():
            spread = 0.05 if parameter.ndim < 2 else 1.5 * parameter[0].numel() ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return made.eval().requires_grad_(False)


@cache
def file(directory: Path, number: int = 1) -> Path:
    """The same as a file, in a folder beside the model's, which tests compare byte by byte."""
    folder = directory.with_name(f"{directory.name}-control")
    folder.mkdir(exist_ok=True)
    path = folder / f"control-{number}.safetensors"
    tensors = network(directory, number).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def latent(directory: Path, image: ImageSpec) -> torch.Tensor:
    """What diffusers' pipeline makes of an image whose networks are named by their numbers.

    Pictures go on at their borders up to the next multiple of 8.
    """
    numbers = [int(one.network.path.name) for one in image.control]
    kinds = {0: _ControlNets, 1: _Adapters, 2: _Union}
    return kinds[max(numbers) // ADAPTERS](directory, image).latent()


class _ControlNets:
    """A call of the ControlNet pipelines.

    Attributes:
        pipelines: from noise, from a picture, and within a mask.
        pictures_are: how the first of them calls what steers; the others call it `control_image`.
    """

    pipelines: tuple[Any, Any, Any] = (
        diffusers.StableDiffusionXLControlNetPipeline,
        diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
        diffusers.StableDiffusionXLControlNetInpaintPipeline,
    )
    pictures_are = "image"

    def __init__(self, directory: Path, image: ImageSpec) -> None:
        self.image, self.directory = image, directory
        self.parts = reference.pipeline(directory).components | {"scheduler": reference.scheduler(directory, image)}
        self.networks = [network(directory, int(one.network.path.name)) for one in image.control]
        self.rows, self.columns = -(-image.height // 8) * 8, -(-image.width // 8) * 8

    @property
    def controlnet(self) -> Any:
        """As the pipelines take it."""
        return self.networks

    def whole(self, pixels: Pixels | None) -> torch.Tensor:
        """A picture on the canvas, 0 to 1."""
        assert pixels is not None
        missing = self.rows - self.image.height, self.columns - self.image.width
        edges = [(side // 2, side - side // 2) for side in missing]
        levels = np.pad(pixels.astype(np.float32) / 255, (*edges, (0, 0)), mode="edge")
        return torch.from_numpy(levels).permute(2, 0, 1)[None]

    def latent(self) -> torch.Tensor:
        """The final one."""
        image, pictures = self.image, [self.whole(one.pixels) for one in self.image.control]
        return self.called(
            self.begun(),
            **{self.pictures_are if image.picture is None else "control_image": pictures},
            controlnet_conditioning_scale=[one.scale for one in image.control],
            control_guidance_start=[one.start for one in image.control],
            control_guidance_end=[one.end for one in image.control],
        )

    def begun(self) -> tuple[Any, dict[str, Any]]:
        """The pipeline for what the image begins with, and what it is to be called with for that."""
        start, parts = self.image.picture, self.parts | {"controlnet": self.controlnet}
        from_noise, from_picture, within_mask = self.pipelines
        if start is None:
            return from_noise(**parts, add_watermarker=False), {}
        vae, whole = parts["vae"], self.whole(start.pixels)
        with torch.inference_mode():
            latent = vae.encode(whole * 2 - 1).latent_dist.mean * vae.config.scaling_factor
        parts = {part: one for part, one in parts.items() if part not in ("feature_extractor", "image_encoder")}
        if start.inpaint is None:
            return from_picture(**parts, add_watermarker=False), {"image": latent, "strength": start.strength}
        assert start.inpaint.mask is not None
        pipe = within_mask(**parts, add_watermarker=False)
        pipe._encode_vae_image = lambda *_, **__: latent  # the mean, without a draw
        mask = self.whole(np.repeat(start.inpaint.mask[..., None], 3, axis=2))[:, :1]
        return pipe, {"image": whole, "mask_image": mask, "strength": start.strength}

    def called(self, begun: tuple[Any, dict[str, Any]], **arguments: Any) -> torch.Tensor:
        """What the pipeline gives."""
        pipe, own = begun
        image, size = self.image, (self.image.height, self.image.width)
        pipe.set_progress_bar_config(disable=True)
        found: torch.Tensor = pipe(
            **own | arguments,
            prompt=image.prompt,
            negative_prompt=image.negative_prompt,
            height=self.rows,
            width=self.columns,
            num_inference_steps=image.steps,
            guidance_scale=image.guidance_scale,
            original_size=size,
            target_size=size,
            generator=torch.Generator().manual_seed(image.seed),
            output_type="latent",
        ).images
        return found


class _Adapters(_ControlNets):
    """A call of the pipeline of T2I-Adapters, whose pictures go on to the next multiple of 16."""

    def latent(self) -> torch.Tensor:
        """The final one; all adapters steer in the share of steps of the first."""
        image, pictures = self.image, []
        for one, adapter in zip(image.control, self.networks, strict=True):
            picture = self.whole(one.pixels)
            if adapter.config.in_channels == 1:
                picture = (picture * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
            missing = 0, -picture.shape[3] % 16, 0, -picture.shape[2] % 16
            pictures.append(torch.nn.functional.pad(picture, missing, mode="replicate"))
        several = len(pictures) > 1
        pipe: Any = diffusers.StableDiffusionXLAdapterPipeline(
            **self.parts, adapter=diffusers.MultiAdapter(self.networks) if several else self.networks[0]
        )
        scales = [one.scale for one in image.control]
        return self.called(
            (pipe, {}),
            image=pictures if several else pictures[0],
            adapter_conditioning_scale=scales if several else scales[0],
            adapter_conditioning_factor=image.control[0].end,
        )


class _Union(_ControlNets):
    """A call of the pipelines of one ControlNet-Union."""

    pipelines = (
        diffusers.StableDiffusionXLControlNetUnionPipeline,
        diffusers.StableDiffusionXLControlNetUnionImg2ImgPipeline,
        diffusers.StableDiffusionXLControlNetUnionInpaintPipeline,
    )
    pictures_are = "control_image"

    @property
    def controlnet(self) -> Any:
        """As these take it."""
        return self.networks[0]

    def called(self, begun: tuple[Any, dict[str, Any]], **arguments: Any) -> torch.Tensor:
        """What the pipeline gives."""
        return super().called(begun, control_mode=[one.mode for one in self.image.control], **arguments)
