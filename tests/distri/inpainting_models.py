"""The demo model with a network of nine channels, as it is trained to fill masks, of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write(directory: Path, model_dir: Path) -> Path:
    """The model in `model_dir`, whose UNet reads five channels more and hardly less of them; returns `directory`."""
    shutil.copytree(model_dir, directory)
    unet, index = directory / "unet", directory / "model_index.json"
    weights = load_file(unet / "diffusion_pytorch_model.safetensors")
    first = weights["conv_in.weight"]
    generator = torch.Generator().manual_seed(5)
    more = torch.randn((first.shape[0], 5, 3, 3), generator=generator) * float(first.std())
    weights["conv_in.weight"] = torch.cat([first, more], dim=1)
    save_file(weights, unet / "diffusion_pytorch_model.safetensors")
    config = json.loads((unet / "config.json").read_text()) | {"in_channels": 9}
    (unet / "config.json").write_text(json.dumps(config))
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "StableDiffusionXLInpaintPipeline"}))
    return directory
