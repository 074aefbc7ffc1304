"""Files of the data folder: their owner's alone, whatever the umask of whoever starts us.

They hold clients' prompts, credentials and pictures. Our own processes run with UMASK, so that files of servers, which
we do not open, are private, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import SettingsError

UMASK = 0o077


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, with mode 0700. Raises SettingsError if it cannot be."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"data folder: {error.filename} cannot be made: {error.strerror}; set TESSERA_DATA_DIR to a folder that can"
        ) from error


def open_log(path: Path) -> BinaryIO:
    """A file to append to, with mode 0600 if it is new."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def tighten(folder: Path) -> int:
    """Take all rights from everybody but the owner, of the folder and of all that is in it; returns of how many.

    Symbolic links are not followed. What is not ours to change stays as it is.
    """
    tightened = 0
    for path in (folder, *_below(folder)):
        try:
            mode = path.lstat().st_mode
            if mode & UMASK and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~UMASK)
                tightened += 1
        except (FileNotFoundError, PermissionError):
            continue
    return tightened


def _below(folder: Path) -> Iterator[Path]:
    for above, folders, files in os.walk(folder, followlinks=False):
        yield from (Path(above, name) for name in (*folders, *files))
