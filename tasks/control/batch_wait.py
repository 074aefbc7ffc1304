"""What the next step of a batch as a whole waits for, in its record, where `tessera status` finds it."""

from __future__ import annotations

import structlog

from pipeline.errors import TesseraError
from pipeline.process.redact import redacted
from pipeline.records.batch import BatchRecord, Wait, changed
from pipeline.states import is_final
from tasks.process.context import Context

log = structlog.get_logger(__name__)

REASON_LIMIT = 500  # characters


def note_wait(context: Context, batch_id: str, reason: str | None) -> None:
    """Record why the step was put off, or, with None, that it was taken. It does not matter if that fails."""

    def noted(record: BatchRecord) -> BatchRecord | None:
        at = context.ledger.now()
        if reason is None:
            return changed(record, at=at, wait=None) if record.wait is not None else None
        text = redacted(reason)[:REASON_LIMIT]
        if is_final(record.state) or (record.wait is not None and record.wait.reason == text):
            return None
        return changed(record, at=at, wait=Wait(reason=text, since=at))

    try:
        context.ledger.batches.update(batch_id, noted)
    except TesseraError as error:
        log.debug("what a batch waits for could not be recorded", batch=batch_id, reason=str(error))
