"""Model files for tests: single files as Civitai distributes them, of a diffusers folder or of full size and empty."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.checkpoints import original
from pipeline.checkpoints.checkpoint import NETWORKS, shipped
from pipeline.checkpoints.kinds import Kind
from pipeline.checkpoints.matching import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE, wanted_tensors

PREFIXES = {
    UNET: ("model.diffusion_model.", original.original_unet),
    VAE: ("first_stage_model.", original.original_vae),
    TEXT_ENCODER: ("conditioner.embedders.0.transformer.", original.text_model),
    TEXT_ENCODER_2: ("conditioner.embedders.1.model.", original.open_clip),
}
ALL = tuple(PREFIXES)
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}


def weights_of(folder: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A part's configuration and weights, in float32."""
    (file,) = (folder / part).glob("*.safetensors")
    config = json.loads((folder / part / "config.json").read_text())
    return config, {name.removeprefix("text_model."): one.float() for name, one in load_file(file).items()}


def single_file(
    folder: Path,
    path: Path,
    *,
    parts: Sequence[str] = ALL,
    dtype: torch.dtype = torch.float32,
    beside: Mapping[str, Tensor] | None = None,
    metadata: dict[str, str] | None = None,
    change: Callable[[dict[str, Tensor]], None] | None = None,
) -> Path:
    """Write a diffusers folder's model as one file in SDXL's original layout."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        tensors |= original_tensors(part, *weights_of(folder, part))
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()} | dict(beside or {})
    if change is not None:
        change(stored)
    save_file(stored, path, metadata)
    return path


def original_tensors(part: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's weights under the names of the original layout."""
    prefix, layout = PREFIXES[part]
    tensors: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in weights.items():
        place = layout(name, config)
        key = prefix + place.key
        if place.third is not None:
            thirds.setdefault(key, {})[place.third] = tensor
        else:
            tensors[key] = tensor.t() if place.transposed else tensor
    joined = {key: torch.cat([parts[i] for i in range(3)]) for key, parts in thirds.items()}
    squares = {
        key: one[:, :, None, None] if ".attn_1." in key and one.ndim == 2 else one for key, one in tensors.items()
    }
    return squares | joined


def full_size(
    path: Path,
    kind: Kind = Kind.BASE,
    *,
    parts: Sequence[str] | None = None,
    dtype: str = "F16",
    change: Callable[[dict[str, tuple[int, ...]]], None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A sparse file with the header of an SDXL checkpoint of full size: its data are holes."""
    configs, shapes = shipped(kind), dict[str, tuple[int, ...]]()
    for part in NETWORKS[kind] if parts is None else parts:
        prefix, layout = PREFIXES[part]
        prefix = "conditioner.embedders.0.model." if kind is Kind.REFINER and part == TEXT_ENCODER_2 else prefix
        for name, shape in wanted_tensors(part, configs[part]).items():
            place = layout(name, configs[part])
            turned = shape[::-1] if place.transposed else shape
            shapes[prefix + place.key] = turned if place.third is None else (3 * turned[0], *turned[1:])
    if change is not None:
        change(shapes)
    return sparse(path, shapes, dtype=dtype, metadata=metadata)


def sparse(
    path: Path, shapes: Mapping[str, tuple[int, ...]], *, dtype: str = "F16", metadata: Mapping[str, str] | None = None
) -> Path:
    """A safetensors file of these shapes whose data are a hole."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        end = place + torch.Size(shape).numel() * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + place)
    return path
