"""What plain diffusers makes of an image: the pipeline that ours has to equal."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch

from distri.engine import ImageSpec


def render(directory: Path, image: ImageSpec) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """Final latent, and the image as floats in 0 to 1, of a one-process StableDiffusionXLPipeline."""
    pipe: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(
        directory, local_files_only=True, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    if image.scheduler is not None:
        pipe.scheduler = getattr(diffusers, image.scheduler).from_config(pipe.scheduler.config)
    arguments = {
        "prompt": image.prompt,
        "negative_prompt": image.negative_prompt,
        "width": image.width,
        "height": image.height,
        "num_inference_steps": image.steps,
        "guidance_scale": image.guidance_scale,
        "guidance_rescale": image.guidance_rescale,
        "original_size": image.original_size,
        "crops_coords_top_left": image.crop,
        "target_size": image.target_size,
    }
    latent = pipe(**arguments, generator=torch.Generator().manual_seed(image.seed), output_type="latent").images
    pixels = pipe(**arguments, generator=torch.Generator().manual_seed(image.seed), output_type="np").images[0]
    return latent, pixels
