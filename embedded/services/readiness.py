"""Wait until a service answers, and report what is wrong if it does not."""

from __future__ import annotations

import time
from collections.abc import Callable

from embedded.processes.child import Child
from pipeline.errors import ServiceError

_POLL_S = 0.05


class NotReady(Exception):
    """The service does not answer as it should yet."""


class StopRequested(Exception):
    """Waiting was given up because this process was asked to stop."""


def wait_until_ready(
    child: Child, check: Callable[[], None], deadline: float, give_up: Callable[[], bool] = lambda: False
) -> None:
    """Call `check` until it passes.

    Raises ServiceError with the service's name and its log's last lines if it ends, or if `deadline` (on the monotonic
    clock) passes; StopRequested when `give_up` says so.
    """
    while True:
        if give_up():
            raise StopRequested
        if (code := child.exit_code()) is not None:
            raise ServiceError(f"{child.name} ended while it started (exit code {code}); {child.log_excerpt()}")
        try:
            check()
        except NotReady as answer:
            if time.monotonic() >= deadline:
                raise ServiceError(f"{child.name} does not answer ({answer}); {child.log_excerpt()}") from answer
            time.sleep(_POLL_S)
        else:
            return
