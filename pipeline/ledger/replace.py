"""Remove a batch, or put another record in the place of its own: readable or damaged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import RecordUnreadable, StaleWrite
from pipeline.ledger.store import Store
from pipeline.names import job_ref
from pipeline.records.batch import BatchRecord
from pipeline.states import BatchState

_PAGE = 500
_UNCOUNTED_JOBS = 100_000


@dataclass(frozen=True)
class Damaged:
    """What stands beside the record of a batch that cannot be read; `state` is None if that cannot be read either."""

    id: str
    revision: int
    incarnation: str
    state: BatchState | None

    def is_of(self, record: BatchRecord) -> bool:
        """Whether it stands beside this record."""
        return (self.revision, self.incarnation) == (record.revision, record.manifest.incarnation)


@dataclass(frozen=True)
class SeenBatch:
    """By what a batch is known to be the one that was read. `jobs` as far as it is known."""

    id: str
    revision: int
    incarnation: str
    jobs: int = 0


def seen_batch(found: BatchRecord | Damaged) -> SeenBatch:
    """The batch as it was read."""
    if isinstance(found, Damaged):
        return SeenBatch(found.id, found.revision, found.incarnation)
    return SeenBatch(found.id, found.revision, found.manifest.incarnation, found.jobs or 0)


def damaged(store: Store, batch_id: str) -> Damaged | None:
    """What stands beside the record of a batch, put in order if it is damaged too; None if there is no such batch."""
    found = store.run("read_damaged_batch", id=batch_id)
    if found is None:
        return None
    revision, incarnation, state = found
    known = {one.value: one for one in BatchState}
    return Damaged(batch_id, int(revision), incarnation, known.get(state))


def remove_batch(store: Store, batch: SeenBatch) -> None:
    """Remove it and its jobs for good; safe to repeat. Raises StaleWrite."""
    _remove_jobs(store, batch)
    _remove(store, batch, (), ending=True)


def replace_batch(store: Store, batch: SeenBatch, after: BatchRecord) -> None:
    """Put a record of another incarnation in its place, without any job; safe to repeat. Raises StaleWrite."""
    _remove_jobs(store, batch)
    done = store.run(
        "restart_batch",
        id=batch.id,
        revision=batch.revision,
        incarnation=batch.incarnation,
        record=after.model_dump_json(),
        state=after.state.value,
        new_incarnation=after.manifest.incarnation,
        new_revision=after.revision,
        images=after.manifest.images,
        created_ms=int(after.manifest.created_at.timestamp() * 1000),
    )
    if not done:
        raise StaleWrite(f"batch {batch.id} has moved on from revision {batch.revision}")


def remove_job(store: Store, batch: SeenBatch, index: int) -> None:
    """Remove one job of the batch. Raises StaleWrite."""
    _remove(store, batch, [index], ending=False)


def _remove_jobs(store: Store, batch: SeenBatch) -> None:
    """Remove every job that there may be, and look a page further: several are created at a time, in any order."""
    jobs = max(batch.jobs, _jobs_counted(store, batch.id))
    for first in range(0, jobs + _PAGE, _PAGE):
        _remove(store, batch, range(first, first + _PAGE), ending=False)


def _jobs_counted(store: Store, batch_id: str) -> int:
    """How many jobs it may have, by its counters and by the jobs that are not final."""
    keys = store.keys
    try:
        with store.errors():
            counts = store.redis.hgetall(keys.counts(batch_id))
            last = store.redis.zrange(keys.jobs(batch_id), -1, -1, withscores=True)
        counted = sum(int(count) for name, count in counts.items() if name.startswith("job."))
        return max(counted, *(int(index) + 1 for _, index in last), 0)
    except (RecordUnreadable, ValueError):  # nobody knows how many, so more are asked for than any batch has had
        return _UNCOUNTED_JOBS


def _remove(store: Store, batch: SeenBatch, jobs: Iterable[int], *, ending: bool) -> None:
    removed = store.run(
        "remove_batch",
        *(job_ref(batch.id, index) for index in jobs),
        id=batch.id,
        revision=batch.revision,
        incarnation=batch.incarnation,
        ending=int(ending),
    )
    if not removed:
        raise StaleWrite(f"batch {batch.id} has moved on from revision {batch.revision}")
