"""Queues and lists of the ledger that were lost or damaged are filled again, from the records of batches and jobs."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from pipeline.errors import RecordUnreadable, RequestError, UnknownBatch
from pipeline.ledger.batches import Batches
from pipeline.ledger.store import Store
from pipeline.names import checked_batch_id
from pipeline.states import is_final

log = structlog.get_logger(__name__)

_MOST_TENANTS, _MOST_LEASES = 1000, 100_000
_JOBS_AT_ONCE = 1000


@dataclass(frozen=True)
class Requeued:
    """Jobs of a batch that stood in no queue: how many may be claimed again, and which have no record."""

    jobs: int
    gone: tuple[str, ...]


class Queues:
    """Each step is atomic, and does nothing where all is well."""

    def __init__(self, store: Store, batches: Batches) -> None:
        self._store, self._batches = store, batches

    def clear_damaged(self) -> list[str]:
        """Remove what stands in the place of a queue and is of another type; returns the keys."""
        return list(self._store.run("clear_queues", most=_MOST_TENANTS))

    def requeue(self, batch_id: str) -> Requeued:
        """Let every job of a batch that is not over and stands in no queue be claimed again."""
        first, jobs, gone = 0, 0, list[str]()
        while True:
            stay, put, without = self._store.run("requeue", batch=batch_id, first=first, limit=_JOBS_AT_ONCE)
            first, jobs = first + int(stay), jobs + int(put)
            gone += without
            if int(stay) < _JOBS_AT_ONCE:
                return Requeued(jobs, tuple(gone))

    def count_leases(self) -> int:
        """Count anew how many leases each tenant has; returns how many there are."""
        return int(self._store.run("count_leases", most=_MOST_LEASES))

    def list_again(self) -> list[str]:
        """Put every batch that has a record into the lists of batches that lack it; returns their ids."""
        store, found = self._store, list[str]()
        begin = store.keys.batch("")
        with store.errors():
            for key in store.redis.scan_iter(match=f"{begin}*", count=1000):
                batch_id = str(key)[len(begin) :]
                if ":" not in batch_id and self._list_again(batch_id):
                    found.append(batch_id)
        return found

    def _list_again(self, batch_id: str) -> bool:
        try:
            record = self._batches.get(checked_batch_id(batch_id))
        except (RecordUnreadable, RequestError, UnknownBatch):
            return False
        keys, redis = self._store.keys, self._store.redis
        is_open = not is_final(record.state) or record.manifest.purge is not None
        added = redis.zadd(keys.batches, {batch_id: record.manifest.created_at.timestamp() * 1000}, nx=True)
        if is_open:
            added += redis.sadd(keys.open, batch_id)
        return bool(added)
