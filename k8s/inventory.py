"""Which files of a folder of weights have been compared with their checksums, and how each looked then.

A file is trusted for what is in it. Whoever may not take the time to read gigabytes again (the first container of each
pod) takes one for the same whose size and time of change are those at its comparison.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import TesseraError
from pipeline.process import flock
from pipeline.process.files import write_whole

FILE, LOCK = ".verified.json", ".lock"
MARK = ".complete"  # of versions that believed one
RESERVED = frozenset({FILE, LOCK, MARK})  # names that no weights may have
LOCK_WAIT_S = 3600.0  # another pod on this node may be copying the same weights


class BadWeights(TesseraError):
    """The files do not match the list of checksums, or the list cannot be used."""


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the folder's lock, because other pods may fill it too. Raises BadWeights if it stays taken."""
    target.mkdir(parents=True, exist_ok=True)
    lock = flock.acquire(target / LOCK, LOCK_WAIT_S)
    if lock is None:
        raise BadWeights(f"another pod has held the lock of {target} for {LOCK_WAIT_S:.0f} s")
    try:
        yield
    finally:
        os.close(lock)


class Inventory:
    """The files below `target` that were verified, for `source` (a revision, say); used under the folder's lock."""

    def __init__(self, target: Path, source: str) -> None:
        self._target, self._source = target, source
        self._files: dict[str, tuple[str, int, int]] = {}  # SHA-256, bytes, time of change in ns
        try:
            found = json.loads((target / FILE).read_text())
            if found["source"] == source:
                self._files = {str(path): (str(a), int(b), int(c)) for path, (a, b, c) in found["files"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # nothing was verified, as far as is known: everything is read again

    def is_whole(self) -> bool:
        """Whether everything is there that was verified for this source, by reading it."""
        return bool(self._files) and all(self.has(path, known[0], read=True) for path, known in self._files.items())

    def has(self, path: str, sha256: str, *, read: bool) -> bool:
        """Whether the file is there with this checksum; without `read` one that looks as when verified is not read."""
        file, known = self._target / path, self._files.get(path)
        try:
            looks = (sha256, *_looks(file))
        except OSError:
            return False
        if known == looks and not read:
            return True
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == sha256

    def note(self, path: str, sha256: str) -> None:
        """Remember that the file has just been found to have this checksum."""
        self._files[path] = (sha256, *_looks(self._target / path))

    def save(self) -> None:
        """Write it down for the next one."""
        text = json.dumps({"source": self._source, "files": self._files}, indent=1)
        write_whole(self._target / FILE, text.encode())
        (self._target / MARK).unlink(missing_ok=True)


def _looks(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
