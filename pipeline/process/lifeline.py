"""Have a process die with its parent, also if that is killed with SIGKILL and cannot clean up.

Imports only the standard library, because a process calls it first, before slow imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

# Set by `embedded.run_with_parent` for its command: the process id that is the parent of the command's children.
PARENT_PID_VARIABLE = "TETHERED_PID"

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_POLL_S = 0.2


def die_with_parent(expected_parent: int | None = None) -> None:
    """Have this process killed with SIGKILL as soon as its parent has ended.

    Args:
        expected_parent: process id of the process that started this one. If that died before this call, this process
            has another parent already, and ends. None takes the parent that it has now.

    On Linux the kernel does it (prctl(2), PR_SET_PDEATHSIG), and it lasts across exec. It watches the *thread* that
    forked this process, so start such processes from a main thread. Elsewhere a thread of this process polls.
    """
    parent = os.getppid() if expected_parent is None else expected_parent
    if sys.platform == "linux":
        _ask_the_kernel()
    else:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _ask_the_kernel() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)
