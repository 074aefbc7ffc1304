"""Restart children that end, after a delay that grows while they keep ending."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from embedded.processes.child import Child
from pipeline.errors import ServiceError
from pipeline.process.backoff import backoff_s

_SCAN_S = 0.1
_FIRST_DELAY_S = 0.2
_PROVEN_S = 30.0  # a child that ran this long gets the first delay again

log = structlog.get_logger("embedded.processes.supervisor")


def supervise(children: Sequence[Child], stopping: Callable[[], bool]) -> None:
    """Restart children that end, until `stopping` returns True. Blocks; call it in the main thread."""
    ends = dict.fromkeys((child.name for child in children), 0)  # in a row
    due: dict[str, float] = {}
    while not stopping():
        now = time.monotonic()
        for child in children:
            name = child.name
            if name not in due:
                if (code := child.exit_code()) is None:
                    continue
                if now - child.started_at > _PROVEN_S:
                    ends[name] = 0
                ends[name] += 1
                delay_s = backoff_s(ends[name], first_s=_FIRST_DELAY_S)
                due[name] = now + delay_s
                log.warning("child ended", child=name, exit_code=code, restart_in_s=delay_s)
            elif now >= due[name]:
                del due[name]
                try:
                    child.start()
                except (OSError, ServiceError):
                    log.exception("child cannot be started", child=name)
                    due[name] = now + backoff_s(ends[name] + 1, first_s=_FIRST_DELAY_S)
                else:
                    log.info("child restarted", child=name, pid=child.pid)
        time.sleep(_SCAN_S)
