"""Batches in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import redis
import structlog

from pipeline.errors import LedgerBehind, RecordUnreadable, StaleWrite, UnknownBatch
from pipeline.ledger.assumed import NOTHING, Assumed
from pipeline.ledger.counts import Counts, counts_of
from pipeline.ledger.inspections import Inspections, Seen, parsed_batch, state_of
from pipeline.ledger.replace import Damaged, damaged, remove_batch, remove_job, replace_batch, seen_batch
from pipeline.ledger.store import Store
from pipeline.ledger.update import Updated, update
from pipeline.records.batch import BatchRecord
from pipeline.schema import read_record
from pipeline.states import BatchState, ImageState, is_final
from pipeline.stored import Record

log = structlog.get_logger(__name__)

_PAGE = 500
_STATES: Mapping[str, BatchState] = {state.value: state for state in BatchState}


@dataclass(frozen=True)
class Event:
    """A batch, a job or an image, named by its id, moved to this state."""

    id: str
    what: str
    name: str
    state: str


class _OfTenant(Record):
    tenant: str


class _Tenant(Record):
    """The tenant of a batch: all that is read of a record that a newer version may have written."""

    manifest: _OfTenant


def _tenant_of(batch_id: str, text: str) -> str | None:
    try:
        return read_record(_Tenant, text, what=f"batch {batch_id}").manifest.tenant
    except RecordUnreadable as error:
        log.warning("a batch counts for no tenant", batch=batch_id, reason=str(error))
        return None


class Batches:
    """Read and write batch records; a write fails if the record has changed since it was read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inspections = Inspections(store)

    def create(self, record: BatchRecord) -> bool:
        """Put a new batch into the ledger; False if there is one of that id already, which is not changed."""
        return bool(self._write(record, expected=0, assumed=NOTHING))

    def write(self, record: BatchRecord, assumed: Assumed = NOTHING) -> None:
        """Write a record that was advanced from the one that was read.

        Raises StaleWrite if that is not the one on record any more, LedgerBehind if the ledger is not as assumed.
        """
        answer = self._write(record, expected=record.revision - 1, assumed=assumed)
        if isinstance(answer, str):
            raise LedgerBehind(record.id, found=answer, wanted=assumed)
        if not answer:
            raise StaleWrite(f"batch {record.id} has moved on from revision {record.revision - 1}")

    def update(
        self,
        batch_id: str,
        change: Callable[[BatchRecord], BatchRecord | None],
        assumed: Callable[[BatchRecord], Assumed] = lambda _: NOTHING,
    ) -> Updated[BatchRecord]:
        """Change a batch's record, even while others change it; `change` returns None to leave it as it is.

        `assumed` is asked with the record that is to be written. Raises UnknownBatch, RecordUnreadable, LedgerBehind.
        """
        return update(lambda: self.get(batch_id), change, lambda record: self.write(record, assumed(record)))

    def _write(self, record: BatchRecord, *, expected: int, assumed: Assumed) -> int | str:
        answer: int | str = self._store.run(
            "write_batch",
            id=record.id,
            expected=expected,
            state=record.state.value,
            record=record.model_dump_json(),
            final=int(is_final(record.state) and record.manifest.purge is None and record.repair is None),
            images=record.manifest.images,
            created_ms=int(record.manifest.created_at.timestamp() * 1000),
            incarnation=record.manifest.incarnation,
            cut_into="" if record.jobs is None else record.jobs,
            jobs="" if assumed.jobs is None else assumed.jobs,
            reopened="" if assumed.reopened is None else assumed.reopened,
            ended=int(assumed.ended),
        )
        return answer

    def reopened(self, batch_id: str) -> int:
        """How often jobs of this batch were opened again after their end."""
        with self._store.errors():
            return int(self._store.redis.hget(self._store.keys.counts(batch_id), "reopened") or 0)

    def get(self, batch_id: str) -> BatchRecord:
        """The record of a batch. Raises UnknownBatch, RecordUnreadable."""
        with self._store.errors():
            text = self._store.redis.hget(self._store.keys.batch(batch_id), "record")
        if text is None:
            if self.known(batch_id):
                raise RecordUnreadable(f"batch {batch_id}", "nothing", BatchRecord.__name__)
            raise UnknownBatch(batch_id)
        return read_record(BatchRecord, str(text), what=f"batch {batch_id}")

    def known(self, *batch_ids: str) -> bool:
        """Whether there are batches of all these ids."""
        with self._store.errors():
            found = self._store.redis.exists(*(self._store.keys.batch(batch_id) for batch_id in batch_ids))
        return int(found) == len(batch_ids)

    def state(self, batch_id: str) -> BatchState:
        """The state of a batch; cheaper than its record. Raises UnknownBatch, RecordUnreadable."""
        with self._store.errors():
            state = self._store.redis.hget(self._store.keys.batch(batch_id), "state")
        if state is None:
            raise UnknownBatch(batch_id)
        return state_of(batch_id, state)

    def states(self, batch_ids: Sequence[str]) -> dict[str, BatchState]:
        """The states of those of these batches that are known here, page by page."""
        states: dict[str, BatchState] = {}
        for first in range(0, len(batch_ids), _PAGE):
            page = batch_ids[first : first + _PAGE]
            found = self._store.run("list_states", *page[1:], first=page[0])
            states.update({one: _STATES[state] for one, state in zip(page, found, strict=True) if state in _STATES})
        return states

    def look(self, batch_id: str) -> tuple[BatchRecord, Counts, datetime]:
        """Record, counters and Redis' time, asked for together. Raises as `get`."""
        keys = self._store.keys
        with self._store.errors():
            pipe = self._store.redis.pipeline(transaction=False)
            pipe.hget(keys.batch(batch_id), "record")
            pipe.hgetall(keys.counts(batch_id))
            pipe.time()
            text, counts, (seconds, microseconds) = pipe.execute(raise_on_error=False)
            if isinstance(text, redis.ResponseError):
                raise text
        record = self.get(batch_id) if text is None else parsed_batch(batch_id, str(text))
        return record, counts_of(batch_id, counts), datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)

    def counts(self, batch_id: str) -> Counts:
        """How many of its images and jobs are in each state, read in one step."""
        with self._store.errors():
            found = self._store.redis.hgetall(self._store.keys.counts(batch_id))
        return counts_of(batch_id, found)

    def newest(self, limit: int, *, first: int = 0) -> list[str]:
        """Ids of batches, newest first, from the `first` on."""
        with self._store.errors():
            return list(self._store.redis.zrevrange(self._store.keys.batches, first, first + limit - 1))

    def place(self, batch_id: str) -> int:
        """How many newer batches there are. Raises UnknownBatch."""
        with self._store.errors():
            place = self._store.redis.zrevrank(self._store.keys.batches, batch_id)
        if place is None:
            raise UnknownBatch(batch_id)
        return int(place)

    def ended_before(self, moment: datetime) -> Iterator[BatchRecord]:
        """Batches that ended before this moment, oldest submission first, read page by page."""
        first = 0
        while True:
            with self._store.errors():
                ids = self._store.redis.zrangebyscore(
                    self._store.keys.batches, "-inf", int(moment.timestamp() * 1000), start=first, num=_PAGE
                )
            for batch_id in ids:
                try:
                    record = self.get(batch_id)
                except UnknownBatch:  # removed since
                    continue
                except RecordUnreadable as error:
                    log.warning("a batch is left alone", batch=batch_id, reason=str(error))
                    continue
                if is_final(record.state) and record.updated_at < moment:
                    yield record
            if len(ids) < _PAGE:
                return
            first += _PAGE

    def ended(self) -> Iterator[tuple[str, BatchState, Counts] | str]:
        """Every batch that has ended and is not being purged: its id, state and counts, read page by page.

        Of one whose state or counts cannot be read, its id alone.
        """
        open_ones, first = set(self.unfinished()), 0
        while True:
            with self._store.errors():
                ids = self._store.redis.zrange(self._store.keys.batches, first, first + _PAGE - 1)
                pipe = self._store.redis.pipeline(transaction=False)
                for batch_id in ids:
                    pipe.hget(self._store.keys.batch(batch_id), "state")
                    pipe.hgetall(self._store.keys.counts(batch_id))
                found = pipe.execute(raise_on_error=False)
            for batch_id, state, counts in zip(ids, found[::2], found[1::2], strict=True):
                if state is None or batch_id in open_ones:
                    continue
                try:
                    if is_final(ended := state_of(batch_id, state)):
                        yield batch_id, ended, counts_of(batch_id, counts)
                except RecordUnreadable:
                    yield batch_id
            if len(ids) < _PAGE:
                return
            first += _PAGE

    def damaged(self, batch_id: str) -> Damaged | None:
        """What stands beside the record of a batch that cannot be read; None if there is no such batch any more."""
        return damaged(self._store, batch_id)

    def check(self, batch_id: str, *, waiting: bool = False) -> None:
        """Raise RecordUnreadable if the record of a batch, or what is kept beside it, is damaged; UnknownBatch.

        With `waiting`, which a controller may ask for, also of jobs that are set aside and of events.
        """
        for _, seen in self._inspections.inspect([batch_id], waiting=waiting):
            if not isinstance(seen, Seen):
                raise seen

    def inspect(self, batch_ids: Sequence[str]) -> Iterator[tuple[str, Seen | UnknownBatch | RecordUnreadable]]:
        """Each of these batches, or what keeps it from being read, read page by page."""
        for first in range(0, len(batch_ids), _PAGE):
            yield from self._inspections.inspect(batch_ids[first : first + _PAGE])

    def remove(self, found: BatchRecord | Damaged) -> None:
        """Remove a batch and its jobs for good; safe to repeat if it was interrupted. Raises StaleWrite."""
        remove_batch(self._store, seen_batch(found))

    def remove_job(self, record: BatchRecord, index: int) -> None:
        """Remove a job that is of another incarnation of this batch. Raises StaleWrite."""
        remove_job(self._store, seen_batch(record), index)

    def restart(self, before: BatchRecord | Damaged, after: BatchRecord) -> None:
        """Put a record of another incarnation in the place of `before`, as if nothing of the batch had been done.

        Its jobs are removed, leases included, so that whoever held one is refused; all images are queued. Safe to
        repeat if it was interrupted. Raises StaleWrite if `before` is not the one on record any more.
        """
        replace_batch(self._store, seen_batch(before), after)

    def unfinished(self) -> list[str]:
        """Ids of the batches that still need work: not final, or being purged."""
        with self._store.errors():
            return sorted(self._store.redis.smembers(self._store.keys.open))

    def open_images(self, tenant: str) -> Mapping[str, int]:
        """How many images have no outcome yet, for each batch of this tenant that is not final."""
        batch_ids = self.unfinished()
        counters = [f"image.{state}" for state in (ImageState.QUEUED, ImageState.RUNNING)]
        with self._store.errors():
            pipe = self._store.redis.pipeline(transaction=False)
            for batch_id in batch_ids:
                pipe.hget(self._store.keys.batch(batch_id), "record")
                pipe.hmget(self._store.keys.counts(batch_id), counters)
            found = pipe.execute(raise_on_error=False)
        return {
            batch_id: 0 if isinstance(counts, redis.ResponseError) else sum(int(count or 0) for count in counts)
            for batch_id, record, counts in zip(batch_ids, found[::2], found[1::2], strict=True)
            if record is not None and _tenant_of(batch_id, str(record)) == tenant
        }

    def events(self, batch_id: str, *, after: str, wait_s: float) -> list[Event]:
        """Events of this batch after the one with id `after` ("$": from now on); waits up to `wait_s` for the first."""
        block_ms = max(1, int(wait_s * 1000))  # to Redis, 0 means for ever
        with self._store.errors():
            found = self._store.redis.xread({self._store.keys.events(batch_id): after}, block=block_ms)
        return [
            Event(event_id, fields["what"], fields["id"], fields["state"])
            for _stream, events in found or []
            for event_id, fields in events
        ]
