"""Put what a submission needs into the bucket before it is accepted, and take it out again if it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from pipeline.bucket.artifacts import Artifacts


def stage(artifacts: Artifacts, staged: Mapping[str, IO[bytes]]) -> None:
    """Write files of lines, by their keys; empty ones are not written. Raises StoreUnavailable."""
    for key, file in staged.items():
        if file.tell():
            file.seek(0)
            artifacts.put(key, file, content_type="application/x-ndjson")


def put_picture(artifacts: Artifacts, key: str, path: Path) -> None:
    """Write a picture that rows begin with. Raises StoreUnavailable."""
    with path.open("rb") as file:
        artifacts.put(key, file, content_type="image/png")


def unstage(artifacts: Artifacts, staged: Iterable[str]) -> None:
    """Remove what `stage` has written. Raises StoreUnavailable."""
    for key in staged:
        artifacts.delete(key)


def append(file: IO[bytes], line: bytes) -> bytes:
    """Write a line, and return it with its end."""
    file.write(line + b"\n")
    return line + b"\n"
