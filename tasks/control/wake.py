"""Look at once at what clients ask for; the tick would look a moment later."""

from __future__ import annotations

import structlog

from pipeline.errors import RecordUnreadable, ServiceError, UnknownBatch
from pipeline.ledger.wakes import SCHEDULES
from tasks.control.fire import request_firings
from tasks.control.tick import publish_hints, request_next_step
from tasks.process.context import Context

log = structlog.get_logger(__name__)

_PAUSE_S = 2.0


def follow_wakes(context: Context) -> None:
    """Look at whatever is asked for, until the worker stops. Whatever goes wrong with one, the next is looked at."""
    while not context.stopping.is_set():
        try:
            if (what := context.ledger.wakes.take()) is not None:
                look(context, what)
        except ServiceError as error:
            log.warning("clients cannot wake the controller; its tick looks", reason=str(error))
            context.stopping.wait(_PAUSE_S)
        except Exception:  # otherwise nothing would be looked at any more
            log.exception("what a client asked for could not be looked at")
            context.stopping.wait(_PAUSE_S)


def look(context: Context, what: str) -> None:
    """Send hints for what this batch needs next, or for the schedules that are due. Raises ServiceError."""
    if what == SCHEDULES:
        request_firings(context)
        return
    try:
        request_next_step(context, what)
    except (UnknownBatch, RecordUnreadable) as error:
        log.info("nothing to do for what a client asked for", batch=what, reason=str(error))
    publish_hints(context)
