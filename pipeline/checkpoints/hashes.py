"""How a model's files are known: SHA-256, and the short forms of it that web UIs and Civitai call AutoV2 and AutoV3."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.header import read_header


@dataclass(frozen=True)
class Hashes:
    """Of one safetensors file.

    Attributes:
        sha256: of the whole file.
        autov2: its first ten digits, A1111's `Model hash`.
        autov3: the first twelve digits of the SHA-256 of what follows the header, so that metadata do not change it.
    """

    sha256: str
    autov2: str
    autov3: str


def hashes_of(path: Path) -> Hashes:
    """Read the whole file once. Raises BadCheckpoint: it is no safetensors file; OSError."""
    data_start = read_header(path).data_start
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        whole.update(file.read(data_start))
        while block := file.read(1 << 22):
            whole.update(block)
            data.update(block)
    return Hashes(whole.hexdigest(), whole.hexdigest()[:10], data.hexdigest()[:12])


def folder_revision(folder: Path) -> str:
    """A short hash of every file of a folder, names included. Raises OSError."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole.hexdigest()[:16]
