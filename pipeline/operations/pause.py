"""Request that a batch is paused, or goes on: a state in the ledger, which workers and pods look at."""

from __future__ import annotations

from pipeline.ledger import Ledger
from pipeline.records.batch import BatchRecord, advance
from pipeline.states import BATCH_MOVES, BatchState


def request_pause(ledger: Ledger, batch_id: str) -> BatchState:
    """Let images that are being rendered finish, then free the GPUs. Returns the state that the batch is in now.

    A batch that is ending or has ended stays as it is. Raises UnknownBatch.
    """

    def paused(record: BatchRecord) -> BatchRecord | None:
        if BatchState.PAUSED not in BATCH_MOVES.get(record.state, ()):
            return None
        return advance(record, BatchState.PAUSED, at=ledger.now())

    return ledger.batches.update(batch_id, paused).record.state


def request_unpause(ledger: Ledger, batch_id: str) -> BatchState:
    """Let a paused batch go on. Returns the state that the batch is in now; one that is not paused stays as it is.

    Raises UnknownBatch.
    """

    def unpaused(record: BatchRecord) -> BatchRecord | None:
        if record.state is not BatchState.PAUSED:
            return None
        unopened = record.jobs is None or record.reopen is not None
        return advance(record, BatchState.VALIDATING if unopened else BatchState.IN_PROGRESS, at=ledger.now())

    return ledger.batches.update(batch_id, unpaused).record.state
