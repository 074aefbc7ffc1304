"""Request that a batch is served earlier or later: the client records it, the controller moves its jobs."""

from __future__ import annotations

from pipeline.errors import RequestError
from pipeline.ledger import Ledger
from pipeline.records.batch import PRIORITIES, BatchRecord, changed
from pipeline.states import is_final


def request_priority(ledger: Ledger, batch_id: str, priority: int) -> None:
    """Give a batch another priority, 0 to 9; jobs that run go on. Raises UnknownBatch, RequestError if it has ended."""
    if priority not in PRIORITIES:
        raise RequestError(f"priority {priority} found; 0 (first) to 9 (last) wanted")

    def prioritized(record: BatchRecord) -> BatchRecord | None:
        if is_final(record.state):
            raise RequestError(f"batch {batch_id} is {record.state.value}; its priority means nothing any more")
        if record.priority_now == priority:
            return None
        return changed(record, at=ledger.now(), priority=priority)

    ledger.batches.update(batch_id, prioritized)
