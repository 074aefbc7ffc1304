"""What our own program does not expect in a step of a batch as a whole: it is tried again, and not for ever."""

from __future__ import annotations

import structlog

from pipeline.errors import TesseraError
from pipeline.process.redact import redacted
from pipeline.states import is_final
from tasks.control.batch_wait import REASON_LIMIT, note_wait
from tasks.control.restart import fail_at_once
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# So that a controller of a bad release, which is taken back, or one whose neighbour is being replaced costs no batch.
MOST_ERRORS, AT_LEAST_S, WITHIN_S = 10, 600.0, 3600.0


def meet(context: Context, step: str, batch_id: str, error: Exception) -> None:
    """Note the error as what the batch waits for; a step that met MOST_ERRORS within WITHIN_S, the first of them
    AT_LEAST_S ago, fails its batch.

    One of the machine, such as a full disk, is an outage, however long it lasts. It does not matter if this fails: the
    next tick asks for the step again.
    """
    reason = f"{type(error).__name__}: {error}"
    note_wait(context, batch_id, reason)
    if isinstance(error, OSError | MemoryError):
        return
    try:
        times, lasted_s = context.ledger.locks.count(f"{step} {batch_id}", WITHIN_S)
        if times >= MOST_ERRORS and lasted_s >= AT_LEAST_S:
            _fail(context, batch_id, f"{reason} ({times} times; the controllers' logs say where)")
    except TesseraError as put_off:
        log.warning("batch cannot be given up yet", batch=batch_id, reason=str(put_off))


def _fail(context: Context, batch_id: str, reason: str) -> None:
    record = context.ledger.batches.get(batch_id)
    if not is_final(record.state):
        fail_at_once(context, record, redacted(reason)[:REASON_LIMIT])
