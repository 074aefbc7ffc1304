"""The last step of expanding a batch and of opening it again: all its jobs are in the ledger, so it is in progress."""

from __future__ import annotations

from typing import Any

from pipeline.ledger.assumed import Assumed
from pipeline.records.batch import BatchRecord, advance, changed
from pipeline.states import BatchState
from tasks.process.context import Context


def let_run(context: Context, batch_id: str, *, reopened: int | None = None, **changes: Any) -> None:
    """Put these changes into the batch's record, which is in progress now.

    One that was paused or cancelled meanwhile stays so. If the changes are there already, nothing happens.

    Raises LedgerBehind if the ledger does not have every job of the batch, or has not opened jobs again `reopened`
    times: it was rolled back, and the jobs are to be put there once more.
    """

    def assumed(record: BatchRecord) -> Assumed:
        return Assumed(jobs=record.jobs, reopened=reopened)

    def running(record: BatchRecord) -> BatchRecord | None:
        if all(getattr(record, name) == value for name, value in changes.items()):
            return None
        now = context.ledger.now()
        if record.state is BatchState.VALIDATING:
            return advance(record, BatchState.IN_PROGRESS, at=now, **changes)
        return changed(record, at=now, **changes)

    context.ledger.batches.update(batch_id, running, assumed)
