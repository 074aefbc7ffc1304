"""SIGTERM: a pod is asked to end. The leader decides when; the others follow its signal.

The signal is taken by a thread of its own, because a main thread that waits in a collective for a dead peer runs no
Python and so no handler. Such a rank would keep torchrun waiting for its whole grace period.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

# A replica that follows its leader ends within an evaluation and the upload of what it has rendered. Shorter than the
# 30 s that torchrun gives its ranks before it kills them.
GRACE_S = 20.0


def on_sigterm(act: Callable[[], None]) -> None:
    """Call `act` in another thread when SIGTERM comes; the process ends itself if it is still there GRACE_S later.

    Call it from the main thread, before other threads start, since they inherit which signals are blocked.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        act()
        threading.Event().wait(GRACE_S)
        os._exit(1)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
