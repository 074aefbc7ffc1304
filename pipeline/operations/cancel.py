"""Ask for a batch to be cancelled: a flag in the ledger, which controller, workers and pods look at."""

from __future__ import annotations

from pipeline.errors import StaleWrite
from pipeline.ledger import Ledger
from pipeline.records.batch import advance
from pipeline.states import BatchState, is_final


def request_cancel(ledger: Ledger, batch_id: str) -> BatchState:
    """Cancel what has not been rendered; what is committed stays. Returns the state that the batch is in now.

    A batch that is final, or whose results are being written, stays as it is. Raises UnknownBatch.
    """
    while True:
        record = ledger.batches.get(batch_id)
        if is_final(record.state) or record.state in (BatchState.CANCELLING, BatchState.FINALIZING):
            return record.state
        try:
            ledger.batches.write(advance(record, BatchState.CANCELLING, at=ledger.now()))
        except StaleWrite:
            continue  # it moved while we looked; look again
        return BatchState.CANCELLING
