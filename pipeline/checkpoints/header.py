"""What a safetensors file says of itself: its tensors' names, types, shapes and places, read without its data.

A file that is none is named for what it is: people have web pages, pointers of Git LFS, pickles and halves of downloads
under this ending. At most `MAX_HEADER_BYTES` are read, and every number in a header is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import BadCheckpoint

# SDXL's checkpoints have 400 KB, LoRAs with their training's notes a few MB. One of this size that is made of the
# smallest entries takes about 3 s and 350 MB; safetensors itself would read six times as much.
MAX_HEADER_BYTES = 16_000_000
MAX_DIMENSIONS = 16

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_LENGTH = 8  # bytes of the header's length, at the beginning of the file

_PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})
_CONVERT = "convert it to safetensors (from a source that you trust), or get it as safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its type as safetensors names it, its shape, and where it lies behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: by name.
        metadata: texts that its maker put there.
        size_bytes: of the whole file.
        data_start: where the data begin, in bytes.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    data_start: int = 0


def read_header(path: Path) -> Header:
    """Read and check a file's header; its data are not touched.

    Raises:
        BadCheckpoint: it is not there, is something else than safetensors, is cut off, or contradicts itself.
    """
    if path.suffix.lower() in _PICKLES:
        raise BadCheckpoint(
            f"{path.name} is a pickle, which can run any code when it is read; only safetensors are read: {_CONVERT}"
        )
    try:
        if path.exists() and not path.is_file():
            raise BadCheckpoint(f"{path} is no file; a safetensors file wanted")
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(file, path, size)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path, size: int) -> Header:
    begin = file.read(512)
    if what := _something_else(begin, size):
        raise BadCheckpoint(f"{path.name} is no safetensors file: {what}")
    length = int.from_bytes(begin[:_LENGTH], "little")
    if length > MAX_HEADER_BYTES:
        raise BadCheckpoint(
            f"{path.name} is no safetensors file, or a damaged one: by its first 8 bytes its header has {length:,} "
            f"bytes; at most {MAX_HEADER_BYTES:,} wanted"
        )
    if _LENGTH + length > size:
        raise BadCheckpoint(
            f"{path.name} is cut off: it has {size:,} bytes and its header alone {length:,}; "
            f"{_LENGTH + length - size:,} bytes or more are missing. Download it again"
        )
    file.seek(_LENGTH)
    tensors, metadata = _parsed(file.read(length), path.name)
    _check_places(tensors, path.name, size - _LENGTH - length)
    return Header(path, tensors, metadata, size, _LENGTH + length)


def _something_else(begin: bytes, size: int) -> str | None:
    """What a file is instead, where its first bytes show it."""
    plausible = int.from_bytes(begin[:_LENGTH], "little") <= MAX_HEADER_BYTES
    if plausible and begin[_LENGTH : _LENGTH + 1] == b"{":
        return None  # whatever letters its length looks like
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not begin:
        return "it is empty. Download it again"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<script")):
        return "it is a web page, so the download got a page instead of the file (a login or an error, perhaps)"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that"
    if text.startswith((b"{", b"[")):
        return "it is a JSON text, perhaps a server's error message instead of the file"
    if begin.startswith(b"PK\x03\x04"):
        return f"it is a zip archive, which a pickled checkpoint (.ckpt, .pt) is as well; {_CONVERT}"
    if begin.startswith(b"\x80") and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"it is a pickle, which can run any code when it is read; {_CONVERT}"
    if begin.startswith(b"GGUF"):
        return "it is a GGUF file, whose quantised weights are not read here; the same model as safetensors wanted"
    if begin.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        return "it is a compressed archive; unpack it first"
    if size <= _LENGTH:
        return f"it has {size} bytes; a safetensors file has at least 10. Download it again"
    if not any(begin):
        return "its first bytes are all zero, as of a download that reserved room and got nothing. Download it again"
    if begin[_LENGTH : _LENGTH + 1] != b"{":
        return "no JSON object follows its first 8 bytes"
    return None


def _parsed(raw: bytes, name: str) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    try:
        content = json.loads(raw, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{name}: its header is no JSON text ({str(error)[:120]}); is the file damaged?") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{name}: its header is no JSON object; is the file damaged?")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise BadCheckpoint(f"{name}: its __metadata__ is no JSON object; is the file damaged?")
    return {key: _tensor(key, entry, name) for key, entry in content.items()}, {
        str(key): value for key, value in metadata.items() if isinstance(value, str)
    }


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name is there twice")
    return content


def _tensor(key: str, entry: Any, name: str) -> StoredTensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise BadCheckpoint(
            f"{name}: the header's entry {key[:80]!r} lacks a dtype, a shape or data_offsets; is the file damaged?"
        ) from error
    numbers = (*shape, start, end)
    if len(shape) > MAX_DIMENSIONS or not all(type(one) is int and 0 <= one < 2**63 for one in numbers):
        raise BadCheckpoint(f"{name}: the shape or the place of {key[:80]!r} are no numbers; is the file damaged?")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadCheckpoint(f"{name}: {key[:80]!r} is of type {str(dtype)[:40]!r}, which is not known here")
    elements = 1
    for side in shape:
        elements *= side
    if elements * BITS[dtype] != 8 * (end - start):
        raise BadCheckpoint(
            f"{name}: {key[:80]!r} takes {end - start:,} bytes by its place and {elements * BITS[dtype] // 8:,} by its "
            "type and shape; the header contradicts itself"
        )
    return StoredTensor(dtype, shape, start, end)


def _check_places(tensors: Mapping[str, StoredTensor], name: str, data_bytes: int) -> None:
    """Whether the tensors lie one behind the other, and all of their bytes are there."""
    place = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != place:
            raise BadCheckpoint(
                f"{name}: {key[:80]!r} begins at {tensor.start:,} and the tensor before it ends at {place:,}; the "
                "header contradicts itself"
            )
        place = tensor.end
    if place > data_bytes:
        raise BadCheckpoint(
            f"{name} is cut off: its header names {place:,} bytes of data and {data_bytes:,} are there; "
            f"{place - data_bytes:,} bytes are missing. Download it again"
        )
    if place < data_bytes:
        raise BadCheckpoint(
            f"{name}: {data_bytes - place:,} bytes follow its last tensor, which no header names; is the file damaged?"
        )
