"""Paths of pictures that rows name: files of this machine, or those of a client's machine that it has uploaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path


@contextmanager
def opened_path(name: str, folders: Sequence[Path]) -> Iterator[BufferedReader]:
    """The file that a path means, in the first folder that has it. Raises ValueError, also where it is not read."""
    paths = [folder / Path(name).expanduser() for folder in folders]
    path = next((path for path in paths if path.is_file()), None)  # nor anything that a read would wait for
    if path is None:
        kind = "a folder found" if any(path.is_dir() for path in paths) else "no such file"
        raise ValueError(f"{kind}; a path that begins at the prompt set's folder, or here, wanted")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class SentPaths:
    """What paths mean that a client on another machine has looked at.

    Attributes:
        uploads: ids of uploaded files, by path.
        unreadable: why there is none, by path.
    """

    uploads: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def upload_of(self, path: str) -> str:
        """The id of the file. Raises ValueError."""
        if (found := self.uploads.get(path)) is not None:
            return found
        raise ValueError(
            self.unreadable.get(path)
            or "a path found; rows that are not read on your machine need upload://ID, an uploaded picture, or "
            "batch://ID/ROW"
        )


NOTHING_SENT = SentPaths()
