"""Everything dies with its parent, also when that is killed with SIGKILL and can clean up nothing.

Light on purpose (standard library only): it is the first thing that a process does, before slow imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

# Set by the tether for what it runs: the process id that children of that command have as their parent.
TETHERED_PID = "TETHERED_PID"

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_POLL_S = 0.2


def die_with_parent(expected_parent: int | None = None) -> None:
    """Have this process killed with SIGKILL as soon as its parent has ended.

    Args:
        expected_parent: process id of whoever started us. A parent that died before this call leaves no trace but
            another parent; who knows the id closes that gap. None takes the parent that is there now.

    On Linux the kernel does it (prctl(2), PR_SET_PDEATHSIG), and it lasts across exec. It watches the *thread* that
    forked us, so whoever starts such a process does it from its main thread. Elsewhere a thread of ours polls.
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
