"""A LoRA file, read: its tensors, peft's settings in its header, and whether it is for this model at all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from distri.ranks.errors import BadLora
from pipeline.checkpoints.header import read_header
from pipeline.errors import BadCheckpoint
from pipeline.loras.bases import BY_TEXT_WIDTH, SDXL, base_by_metadata, base_by_names, text_width

METADATA_KEY = "lora_adapter_metadata"  # where diffusers keeps peft's settings in a file's header
# What torch converts to float32 on every device.
DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"})
MOST_TENSORS = 100_000  # a file of every layer of SDXL in the kind with most tensors has 15,000


@dataclass(frozen=True)
class LoraFile:
    """What a file holds.

    Attributes:
        name: of the file.
        tensors: by name, in any dtype, on the CPU.
        metadata: the header's.
        peft: peft's settings; empty if there are none.
    """

    name: str
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]
    peft: Mapping[str, Any]


def read_file(path: Path, sha256: str | None) -> LoraFile:
    """Read a file; its header is believed, not its name. Raises BadLora."""
    try:
        header = read_header(path)
        if len(header.tensors) > MOST_TENSORS:
            raise BadLora(path.name, f"it has {len(header.tensors):,} tensors, at most {MOST_TENSORS:,} wanted")
        if strange := sorted({tensor.dtype for tensor in header.tensors.values()} - DTYPES):
            raise BadLora(path.name, f"it has tensors of type {', '.join(strange)}, which is not read here")
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256.lower():
                raise BadLora(path.name, f"its SHA-256 is {found}, {sha256} was wanted")
        with safe_open(path, framework="pt") as content:
            tensors = {key: content.get_tensor(key) for key in header.tensors}
        peft = json.loads(header.metadata.get(METADATA_KEY, "{}"))
    except BadCheckpoint as error:
        raise BadLora(path.name, str(error)) from error
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise BadLora(path.name, f"it cannot be read as safetensors: {error}") from error
    if not isinstance(peft, dict):
        raise BadLora(path.name, f"its {METADATA_KEY} is no JSON object")
    return LoraFile(path.name, tensors, header.metadata, peft)


def check_base(file: LoraFile, unet_text_width: int | None) -> None:
    """Refuse a file for another base model.

    Args:
        file: the file.
        unet_text_width: numbers a token of the text that the model's UNet reads; None if it does not say.

    Raises:
        BadLora.
    """
    own = BY_TEXT_WIDTH.get(unet_text_width or 0)
    width = text_width({key: tuple(tensor.shape) for key, tensor in file.tensors.items()})
    if width is not None and unet_text_width is not None and width != unet_text_width:
        made_for = BY_TEXT_WIDTH.get(width, "another model")
        raise BadLora(
            file.name,
            f"it was made for {made_for}: its cross-attention reads text of {width} numbers a token, "
            f"this model's{f' ({own})' if own else ''} of {unet_text_width}",
        )
    other = base_by_names(file.tensors) or base_by_metadata(file.metadata) if width is None else None
    if other is not None and other not in (own, SDXL):
        raise BadLora(file.name, f"it was made for {other}, not for {f'this model ({own})' if own else 'this model'}")
