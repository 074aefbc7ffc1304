"""What was trained to a diffusers SDXL pipeline directory in half precision, with its model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler

from training import denoiser, networks

LIMIT_BYTES = 24_000_000


def write(target: Path, painter: denoiser.Painter, vae: Any) -> int:
    """Write the directory anew from the trained networks; returns its bytes.

    Raises:
        ValueError: it would be larger than LIMIT_BYTES; nothing is left behind.
    """
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    parts: dict[str, Any] = {
        "unet": painter.unet,
        "vae": vae,
        "text_encoder": painter.text_encoder,
        "text_encoder_2": painter.text_encoder_2,
    }
    for name, part in parts.items():
        part.to(dtype=torch.float16, memory_format=torch.contiguous_format).save_pretrained(unfinished / name)
    for name, tokenizer in zip(("tokenizer", "tokenizer_2"), networks.tokenizers(), strict=True):
        tokenizer.save_pretrained(unfinished / name)
    scheduler: Any = EulerDiscreteScheduler
    scheduler(**networks.SCHEDULE, timestep_spacing="trailing").save_pretrained(unfinished / "scheduler")
    (unfinished / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n")
    (unfinished / "README.md").write_text((Path(__file__).parent / "card.md").read_text())
    size = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        shutil.rmtree(unfinished)
        raise ValueError(
            f"the directory would hold {size} bytes, wanted at most {LIMIT_BYTES}: make a network narrower"
        )
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return size


_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.36.0",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
}
