"""Locks that end with the process that holds them: flock(2) on a file, which the kernel releases however it ended.

Process ids get reused and pid files outlive their writers; a held lock proves that its holder lives.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_RETRY_S = 0.02


def acquire(path: Path, timeout_s: float = 0.0) -> int | None:
    """Take the exclusive lock and return the open descriptor that holds it; None if it stays taken.

    The descriptor is not inherited by children unless it is passed to them, and then it is theirs to hold, too.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(_RETRY_S)
        else:
            return descriptor


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, and released at once: two processes that ask at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(path: Path) -> int | None:
    """Process id that the lock's holder has written into the file; None if it has not, or there is no file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


def end_holder(path: Path, *, grace_s: float, kill_s: float) -> int | None:
    """End the process that holds a lock and has written its id into it: with SIGTERM, after the grace with SIGKILL.

    Returns its id, or 0 if that was not known; None if the lock is still held `kill_s` after that.
    """
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, kill_s)):
        deadline = time.monotonic() + wait_s
        signalled = 0
        while is_held(path):
            pid = holder(path)
            if pid is not None and pid != signalled:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                signalled = pid
            if time.monotonic() > deadline:
                break
            time.sleep(_RETRY_S)
        else:
            return signalled
    return None
