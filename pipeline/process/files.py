"""Files that are whole or not there: written under another name beside their place, then given their own.

A reader sees the old content or the new, never a part. A writer that is killed leaves what it had written under the
other name, which nobody reads.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_IN_MEMORY_BYTES = 8 << 20


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file to write, which becomes `target` at the end of the block and is removed if the block raises.

    For large files with one writer at a time: until then it is called as `part_of` says, so that of any number of
    writers that were killed one file is left, and the next writer replaces it.
    """
    part = part_of(target)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "wb") as file:
            yield file
        part.replace(target)
    except BaseException as error:
        _give_up(error, target, part)
        raise


def name_target(error: BaseException, target: Path, part: Path | str) -> None:
    """Have an error of the system name the file that was wanted, not what it is called until it is whole."""
    if isinstance(error, OSError) and error.filename in (None, str(part)):
        error.filename = str(target)


def part_of(target: Path) -> Path:
    """Where `target` is written until it is whole; its folder is made if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(target.name + ".part")


def write_whole(target: Path, content: bytes) -> None:
    """Write `target` at once. Several processes may do it at the same time: the last one's content stays."""
    _write(target, content, 0o666)


def write_private(target: Path, text: str) -> None:
    """Write `target` as `write_whole` does, with mode 0600: nobody but its owner reads it."""
    _write(target, text.encode(), 0o600)


def unfinished(target: Path, content: bytes, mode: int = 0o600) -> Path:
    """A file beside `target` that holds `content`, for the caller to rename or to link into place."""
    path = target.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
    except BaseException as error:
        _give_up(error, target, path)
        raise
    return path


def spool() -> IO[bytes]:
    """A temporary file without a name, in memory while it is small."""
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)


def _write(target: Path, content: bytes, mode: int) -> None:
    path = unfinished(target, content, mode)
    try:
        path.replace(target)
    except BaseException as error:
        _give_up(error, target, path)
        raise


def _give_up(error: BaseException, target: Path, part: Path) -> None:
    name_target(error, target, part)
    with suppress(OSError):  # of a disk that takes no change: the error itself says so
        part.unlink()
