"""Ask for a batch to be paused, or to go on: a flag in the ledger, which workers and pods look at."""

from __future__ import annotations

from pipeline.errors import StaleWrite
from pipeline.ledger import Ledger
from pipeline.records.batch import BatchRecord, advance
from pipeline.states import BATCH_MOVES, BatchState


def request_pause(ledger: Ledger, batch_id: str) -> BatchState:
    """Let images that are being rendered finish, then free the GPUs. Returns the state that the batch is in now.

    A batch that is ending or has ended stays as it is. Raises UnknownBatch.
    """
    while True:
        record = ledger.batches.get(batch_id)
        if BatchState.PAUSED not in BATCH_MOVES.get(record.state, ()) or _moved(ledger, record, BatchState.PAUSED):
            return ledger.batches.state(batch_id)


def request_unpause(ledger: Ledger, batch_id: str) -> BatchState:
    """Let a paused batch go on. Returns the state that the batch is in now; one that is not paused stays as it is.

    Raises UnknownBatch.
    """
    while True:
        record = ledger.batches.get(batch_id)
        unopened = record.jobs is None or record.reopen is not None
        goes_on = BatchState.VALIDATING if unopened else BatchState.IN_PROGRESS
        if record.state is not BatchState.PAUSED or _moved(ledger, record, goes_on):
            return ledger.batches.state(batch_id)


def _moved(ledger: Ledger, record: BatchRecord, to: BatchState) -> bool:
    try:
        ledger.batches.write(advance(record, to, at=ledger.now()))
    except StaleWrite:
        return False  # it moved while we looked; look again
    return True
