"""What a file that steers pictures is, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from pipeline.checkpoints.header import read_header
from pipeline.input_picture import ControlKind
from pipeline.stored import Record

# A T2I-Adapter for SDXL folds squares of 16 pixels into channels, one for SD 1.x squares of 8.
FOLDED_PX = 16
_FIRST = "adapter.conv_in.weight"


_MODES = "task_embedding"  # of a ControlNet-Union


class ControlFile(Record):
    """What is known of a file in diffusers' naming."""

    kind: ControlKind
    modes: int | None = Field(
        None, exclude_if=lambda value: value is None, description="Kinds of pictures of a ControlNet-Union."
    )


def control_file(shapes: Mapping[str, tuple[int, ...]]) -> ControlFile | None:
    """What has these tensors; None if it is no such file, or a T2I-Adapter for another base than SDXL."""
    if any(key.startswith("controlnet_down_blocks.") for key in shapes):
        if (modes := shapes.get(_MODES)) is not None and modes:
            return ControlFile(kind=ControlKind.UNION, modes=modes[0])
        return ControlFile(kind=ControlKind.CONTROLNET)
    if any(key.startswith("adapter.body.") for key in shapes) and adapter_channels(shapes) is not None:
        return ControlFile(kind=ControlKind.T2I_ADAPTER)
    return None


def control_file_of(path: Path) -> ControlFile | None:
    """Likewise, of a file that lies there. Raises BadCheckpoint: it is no safetensors file."""
    return control_file({key: tensor.shape for key, tensor in read_header(path).tensors.items()})


def adapter_channels(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Of the pictures that a T2I-Adapter for SDXL reads, 3 or 1; None if the file is none."""
    first = shapes.get(_FIRST, ())
    channels, rest = divmod(first[1], FOLDED_PX**2) if len(first) == 4 else (0, 0)
    return channels if channels in (1, 3) and not rest else None


def base_of_adapter(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The base model of a T2I-Adapter, by how it folds pixels; None if the file is none."""
    if not any(key.startswith("adapter.body.") for key in shapes):
        return None
    return "SDXL" if adapter_channels(shapes) is not None else "SD 1.x"
