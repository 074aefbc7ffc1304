"""Request that a batch is cancelled: a state in the ledger, which controller, workers and pods look at."""

from __future__ import annotations

from pipeline.ledger import Ledger
from pipeline.records.batch import BatchRecord, advance
from pipeline.states import BatchState, is_final


def request_cancel(ledger: Ledger, batch_id: str) -> BatchState:
    """Cancel the images that are not rendered yet; committed ones stay. Returns the state that the batch is in now.

    A batch that is final, or whose results are being written, stays as it is. Raises UnknownBatch.
    """

    def cancelled(record: BatchRecord) -> BatchRecord | None:
        if is_final(record.state) or record.state in (BatchState.CANCELLING, BatchState.FINALIZING):
            return None
        return advance(record, BatchState.CANCELLING, at=ledger.now())

    return ledger.batches.update(batch_id, cancelled).record.state
