"""Find and kill every process of an attempt, wherever it is in the process tree.

torchrun starts its ranks in sessions of their own, and a rank whose torchrun has died belongs to init: neither process
group nor parent identifies it. A variable of the environment that it was started with does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PAUSE_S = 0.02


def marked(variable: str, value: str) -> set[int]:
    """Process ids of all processes of this user that were started with `variable=value`, except this one."""
    mark = f"{variable}={value}"
    found = _by_proc(mark) if sys.platform == "linux" else _by_ps(mark)
    return found - {os.getpid()}


def kill_marked(variable: str, value: str, timeout_s: float) -> set[int]:
    """Kill them with SIGKILL, and those that start meanwhile, until none is left. Returns those left at the timeout."""
    deadline = time.monotonic() + timeout_s
    while (left := marked(variable, value)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_PAUSE_S)
    return left


def _by_proc(mark: str) -> set[int]:
    wanted = mark.encode()
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes()
        except OSError:  # it has ended, or belongs to somebody else
            continue
        if wanted in variables.split(b"\0"):
            found.add(int(folder.name))
    return found


def _by_ps(mark: str) -> set[int]:
    listing = subprocess.run(["/bin/ps", "axEww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    return {int(line.split(None, 1)[0]) for line in listing.stdout.splitlines() if mark in line.split()}
