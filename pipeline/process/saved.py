"""Files that a user has written on this machine, at a place of the user's own naming.

Unlike a name out of a bucket (`pipeline.process.folder`), such a name may be any that the file system takes.
"""

from __future__ import annotations

import errno
import filecmp
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import FileRefused, RequestError
from pipeline.process.files import unfinished, write_whole

# Of a file system without links, as memory cards and some network drives have it.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say as a RequestError that names `path` what this machine refuses while it is written."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror or error}") from error


def check_folder(folder: Path) -> None:
    """Raise RequestError if nothing can be written into a folder, which need not be there yet; makes nothing."""
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        raise RequestError(f"{folder} cannot be written: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written: {there} may not be changed")


def save(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all, and its folder if need be; a file of this name is replaced. Returns the path.

    Raises FileRefused for anything but a file in its place, RequestError.
    """
    with writing(path):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise FileRefused(path.name, "something of this name is there that is no file")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return path


def save_beside(path: Path, content: bytes) -> Path:
    """The same under a name that is free: hero.png, or hero-2.png where another file is hero.png, and so on.

    A file of this content that has one of these names already is the one. Several processes may do it at the same time.
    Raises RequestError.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(path, content, 0o666)
        try:
            names = (path if number == 1 else path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1))
            return next(name for name in names if _take(part, name) or _is_like(part, name))
        finally:
            part.unlink(missing_ok=True)


def _is_like(part: Path, name: Path) -> bool:
    return name.is_file() and filecmp.cmp(part, name, shallow=False)


def _take(part: Path, name: Path) -> bool:
    """Give a file the name, unless something has it."""
    try:
        os.link(part, name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(name):
            return False
        part.replace(name)
    return True
