"""What plain diffusers makes of an image: the pipeline that ours has to equal."""

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch

from distri.model.image import ImageSpec
from distri.model.passes.stages import RenderPlan
from distri.model.text.prompts import LongPrompt


@cache
def pipeline(directory: Path) -> Any:
    """A one-process StableDiffusionXLPipeline."""
    pipe: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(
        directory, local_files_only=True, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def scheduler(directory: Path, image: ImageSpec) -> Any:
    """A new scheduler as a user of diffusers makes it."""
    config = pipeline(directory).scheduler.config
    own = pipeline(directory).scheduler.__class__.__name__
    return getattr(diffusers, image.scheduler or own).from_config(config, **image.scheduler_settings)


def render(directory: Path, image: ImageSpec) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """Final latent, and the image as floats in 0 to 1: on the next larger canvas, cut to size in the middle."""
    width, height = (-(-side // 8) * 8 for side in (image.width, image.height))
    pipe: Any = diffusers.StableDiffusionXLPipeline(
        **pipeline(directory).components | {"scheduler": scheduler(directory, image)}, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    arguments = _arguments(directory, image) | _conditioning(image, (image.height, image.width))
    generator = torch.Generator().manual_seed(image.seed)
    latent = pipe(**arguments, width=width, height=height, generator=generator, output_type="latent").images
    pixels = decoded(directory, latent)
    left, top = (width - image.width) // 2, (height - image.height) // 2
    return latent, pixels[top : top + image.height, left : left + image.width]


def refined(directory: Path, image: ImageSpec, plan: RenderPlan) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """The same by text to image and image to image, one pipeline call a pass."""
    latent = torch.empty(0)
    parts = pipeline(directory).components
    for number, stage in enumerate(plan.stages):
        own = parts | {"scheduler": scheduler(directory, image)}
        last = number == len(plan.stages) - 1
        arguments = _arguments(directory, image) | {"generator": torch.Generator().manual_seed(stage.seed)}
        arguments |= _conditioning(image, (image.height, image.width) if last else (stage.height, stage.width))
        arguments |= {"num_inference_steps": stage.steps, "output_type": "latent"}
        pipe: Any
        if number == 0:
            pipe = diffusers.StableDiffusionXLPipeline(**own, add_watermarker=False)
            arguments |= {"width": stage.width, "height": stage.height}
        else:
            pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
                **{name: part for name, part in own.items() if name not in ("feature_extractor", "image_encoder")},
                add_watermarker=False,
            )
            picture = torch.from_numpy(decoded(directory, latent)).permute(2, 0, 1)[None] * 2 - 1
            scale = max(stage.height / picture.shape[2], stage.width / picture.shape[3])
            size = max(stage.height, round(picture.shape[2] * scale)), max(stage.width, round(picture.shape[3] * scale))
            big = torch.nn.functional.interpolate(picture, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
            top, left = (size[0] - stage.height) // 2, (size[1] - stage.width) // 2
            cut = big[:, :, top : top + stage.height, left : left + stage.width]
            with torch.inference_mode():
                mean = parts["vae"].encode(cut).latent_dist.mean * parts["vae"].config.scaling_factor
            arguments |= {"image": mean, "strength": stage.strength}
        pipe.set_progress_bar_config(disable=True)
        latent = pipe(**arguments).images
    left, top = plan.crop
    return latent, decoded(directory, latent)[top : top + image.height, left : left + image.width]


@torch.inference_mode()
def decoded(directory: Path, latent: torch.Tensor) -> npt.NDArray[np.float32]:
    """Floats of 0 to 1, height x width x 3."""
    vae = pipeline(directory).vae
    pixels: npt.NDArray[np.float32] = (
        (vae.decode(latent / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    )
    return pixels


@torch.inference_mode()
def embeddings(directory: Path, image: ImageSpec) -> dict[str, torch.Tensor]:
    """Prompt embeddings by hand, in pieces of 75 tokens; for what diffusers does not do itself."""
    parts = pipeline(directory).components
    pairs = [(parts["tokenizer"], parts["text_encoder"]), (parts["tokenizer_2"], parts["text_encoder_2"])]
    negative_2 = image.negative_prompt if image.negative_prompt_2 is None else image.negative_prompt_2
    sides = {
        "": (image.prompt, image.prompt if image.prompt_2 is None else image.prompt_2),
        "negative_": (image.negative_prompt, negative_2),
    }
    ids = {
        (side, place): None if text is None else pairs[place][0](text, truncation=False).input_ids[1:-1]
        for side, texts in sides.items()
        for place, text in enumerate(texts)
    }
    count = max(-(-len(one) // 75) for one in ids.values() if one is not None) or 1
    given = {}
    for side in sides:
        hidden = []
        for place, (tokenizer, encoder) in enumerate(pairs):
            own = ids[side, place]
            outputs = []
            for number in range(count):
                piece = [tokenizer.bos_token_id, *(own or [])[75 * number : 75 * (number + 1)], tokenizer.eos_token_id]
                piece += [tokenizer.pad_token_id] * (77 - len(piece))
                outputs.append(encoder(torch.tensor([piece]), output_hidden_states=True))
            states, pooled = torch.cat([output.hidden_states[-2] for output in outputs], dim=1), outputs[0][0]
            hidden.append(states if own is not None else torch.zeros_like(states))
        given[f"{side}prompt_embeds"] = torch.cat(hidden, dim=2)
        given[f"{side}pooled_prompt_embeds"] = pooled if own is not None else torch.zeros_like(pooled)
    return given


def _arguments(directory: Path, image: ImageSpec) -> dict[str, Any]:
    by_hand = image.long_prompt is LongPrompt.CHUNK or "" in (image.prompt_2, image.negative_prompt_2)
    texts = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
    texts_or_embeddings = embeddings(directory, image) if by_hand else {name: getattr(image, name) for name in texts}
    return texts_or_embeddings | {
        "num_inference_steps": image.steps,
        "guidance_scale": image.guidance_scale,
        "guidance_rescale": image.guidance_rescale,
    }


def _conditioning(image: ImageSpec, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "original_size": image.original_size or size,
        "crops_coords_top_left": image.crop,
        "target_size": image.target_size or size,
        "negative_original_size": image.negative_original_size,
        "negative_crops_coords_top_left": image.negative_crop,
        "negative_target_size": image.negative_target_size,
    }
