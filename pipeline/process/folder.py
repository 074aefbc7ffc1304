"""A folder on this machine into which somebody else's names are written: nothing leaves it, nothing of another is lost.

Names come from a bucket, which a taken-over pod may write. So a name has an alphabet that no file system gives a
meaning to, symbolic links inside the folder are not followed, and only regular files are replaced.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import FileRefused
from pipeline.process.files import name_target

# Lower case, so that no two names are one on a file system that ignores case.
_PART = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,98}[a-z0-9_-])?")
# What Windows takes for a device, whatever stands behind the dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin|conout|clock)(\..*)?")
_MOST_PARTS = 8

# Of a file until it is whole. One that nobody has written to for so long is of a writer that was killed.
_PREFIX, _SUFFIX, _ABANDONED_S = ".tessera-", ".part", 3600

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def checked_name(name: str) -> str:
    """The relative name itself, such as images/00000/0000012-000.png. Raises FileRefused for what could mean more."""
    parts = name.split("/")
    if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(part) and not _RESERVED.fullmatch(part) for part in parts):
        raise FileRefused(
            name,
            f"at most {_MOST_PARTS} parts of lower-case letters, digits, '.', '_' and '-' wanted, none of which begins "
            "or ends with a dot or is a name that Windows reserves",
        )
    return name


class TargetFolder:
    """A folder to write into, made if need be. The folder itself may be a link; what is in it may not.

    Safe to share between threads. Its methods raise FileRefused for a name that is none, for a symbolic link or
    anything else but a folder in its path, and for anything but a regular file in its place.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._swept: set[str] = set()

    def has(self, name: str, size_bytes: int, sha256: str) -> bool:
        """Whether the file of this name is there, with this content."""
        with self._parent(name) as (parent, last):
            found = _regular(parent, last, name)
            return found is not None and found.st_size == size_bytes and _digest(parent, last) == sha256

    def has_any(self, name: str) -> bool:
        """Whether a regular file of this name is there."""
        with self._parent(name) as (parent, last):
            return _regular(parent, last, name) is not None

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """The beginning of a file; None if there is none."""
        with self._parent(name) as (parent, last):
            if _regular(parent, last, name) is None:
                return None
            with _open(parent, last) as file:
                return file.read(most_bytes)

    @contextmanager
    def write(self, name: str, *, replace: bool) -> Iterator[IO[bytes]]:
        """A file to write, which gets its name at the end of the block, whole, and is removed if the block raises.

        With `replace`, a file of this name is replaced; without it, one of other content is left alone and FileRefused
        raised at the end.
        """
        with self._parent(name, make=True) as (parent, last):
            if parent is None:
                raise FileRefused(name, "its folder was removed meanwhile")
            _regular(parent, last, name)
            self._sweep(parent, name.rpartition("/")[0])
            part = f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(part, flags, 0o666, dir_fd=parent), "w+b") as file:
                    yield file
                if _regular(parent, last, name) is not None and not replace:
                    _check_equal(parent, part, last, name)
                os.replace(part, last, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException as error:
                name_target(error, self.path / name, part)
                if _stat(parent, part) is not None:
                    os.unlink(part, dir_fd=parent)
                raise

    def _sweep(self, parent: int, folder: str) -> None:
        """Remove what writers that were killed have left, once in each folder."""
        if folder in self._swept:
            return
        self._swept.add(folder)
        for part in os.listdir(parent):
            if part.startswith(_PREFIX) and part.endswith(_SUFFIX):
                found = _stat(parent, part)
                if found is not None and stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _ABANDONED_S:
                    os.unlink(part, dir_fd=parent)

    @contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int | None, str]]:
        """The folder that a name lies in, opened part by part, and the name's last part; None if it is not there."""
        *folders, last = checked_name(name).split("/")
        opened = [os.open(self.path, _FOLDER)]
        try:
            for part in folders:
                descriptor = _subfolder(opened[-1], part, name, make=make)
                if descriptor is None:
                    yield None, last
                    return
                opened.append(descriptor)
            yield opened[-1], last
        finally:
            for descriptor in opened:
                os.close(descriptor)


def _subfolder(parent: int, part: str, name: str, *, make: bool) -> int | None:
    if make:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=parent)
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise
        what = _kind(os.stat(part, dir_fd=parent, follow_symlinks=False))
        raise FileRefused(name, f"{part!r} in its path is {what}, a folder wanted") from error


def _regular(parent: int | None, last: str, name: str) -> os.stat_result | None:
    """What is known of the regular file of this name; None if nothing has it. Raises FileRefused for anything else."""
    found = None if parent is None else _stat(parent, last)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise FileRefused(name, f"{_kind(found)} of this name is there")
    return found


def _stat(parent: int, last: str) -> os.stat_result | None:
    try:
        return os.stat(last, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open(parent: int | None, last: str) -> io.BufferedReader:
    return os.fdopen(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent), "rb")


def _digest(parent: int | None, last: str) -> str:
    with _open(parent, last) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_equal(parent: int, part: str, last: str, name: str) -> None:
    with _open(parent, part) as new, _open(parent, last) as there:
        same_size = os.fstat(new.fileno()).st_size == os.fstat(there.fileno()).st_size
    if not same_size or _digest(parent, part) != _digest(parent, last):
        raise FileRefused(name, "a file of this name and other content is there")


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


def _kind(found: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
