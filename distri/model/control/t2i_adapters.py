"""T2I-Adapters for SDXL: their architecture follows from their tensors."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import T2IAdapter

from distri.ranks.errors import BadControlNet
from pipeline.checkpoints.control_files import FOLDED_PX, adapter_channels
from pipeline.checkpoints.header import Header

TYPE = "full_adapter_xl"


def empty_adapter(header: Header, unet: Any) -> Any:
    """A diffusers `T2IAdapter` as a file describes it, without weights, for a UNet of this configuration.

    Raises:
        BadControlNet: it is for another base model, or of another type than SDXL's.
    """
    name, shapes = header.path.name, {key: tensor.shape for key, tensor in header.tensors.items()}
    channels = adapter_channels(shapes)
    if channels is None:
        raise BadControlNet(name, f"it is a T2I-Adapter for SD 1.x; one for SDXL wanted ({TYPE})")
    widths = [shapes.get(f"adapter.body.{level}.resnets.0.block1.weight", (0,))[0] for level in range(4)]
    wanted = [*unet.block_out_channels, unet.block_out_channels[-1]]
    if widths != wanted:
        found = f"its features have {_listed(widths)} channels, this model's blocks {_listed(wanted)}"
        raise BadControlNet(name, f"it was made for another base model: {found}")
    resnets = 0
    while f"adapter.body.0.resnets.{resnets}.block1.weight" in shapes:
        resnets += 1
    with torch.device("meta"):
        return T2IAdapter(channels, widths, resnets, FOLDED_PX, TYPE)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
