"""The last step of expanding a batch and of opening it again: all its jobs are in the ledger, so it is in progress."""

from __future__ import annotations

from typing import Any

from pipeline.records.batch import BatchRecord, advance, changed
from pipeline.states import BatchState
from tasks.process.context import Context


def let_run(context: Context, batch_id: str, **changes: Any) -> None:
    """Put these changes into the batch's record, which is in progress now.

    One that was paused or cancelled meanwhile stays so. If the changes are there already, nothing happens.
    """

    def running(record: BatchRecord) -> BatchRecord | None:
        if all(getattr(record, name) == value for name, value in changes.items()):
            return None
        now = context.ledger.now()
        if record.state is BatchState.VALIDATING:
            return advance(record, BatchState.IN_PROGRESS, at=now, **changes)
        return changed(record, at=now, **changes)

    context.ledger.batches.update(batch_id, running)
