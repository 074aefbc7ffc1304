"""Schedules in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import structlog

from pipeline.errors import RecordUnreadable, StaleWrite
from pipeline.ledger.store import Store
from pipeline.records.schedules.schedule import Firing, ScheduleRecord
from pipeline.schema import read_record

log = structlog.get_logger(__name__)

FIRINGS_KEPT = 200
_PAGE = 500


@dataclass(frozen=True)
class ScheduleEntry:
    """A schedule in a list: its record, or why it cannot be read; and its last firing, if there is one."""

    name: str
    record: ScheduleRecord | RecordUnreadable
    last: Firing | None


class ScheduleRecords:
    """Read and write schedules and their firings; a write fails if the record has changed since it was read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, record: ScheduleRecord) -> bool:
        """Put a new schedule into the ledger; False if there is one of that name already, which is not changed."""
        return self._write(record, None, expected=0)

    def write(self, record: ScheduleRecord, firing: Firing | None = None) -> None:
        """Write a record that was made from the one that was read, and the outcome of a firing, in one step.

        Raises StaleWrite; then neither is written.
        """
        if not self._write(record, firing, expected=record.revision - 1):
            raise StaleWrite(f"schedule {record.name} has moved on from revision {record.revision - 1}")

    def _write(self, record: ScheduleRecord, firing: Firing | None, *, expected: int) -> bool:
        due = "-inf" if record.runs else "+inf" if record.next_at is None else int(record.next_at.timestamp() * 1000)
        return bool(
            self._store.run(
                "write_schedule",
                name=record.name,
                expected=expected,
                revision=record.revision,
                record=record.model_dump_json(),
                due_ms=due,
                firing="" if firing is None else firing.model_dump_json(),
                firings_kept=FIRINGS_KEPT,
            )
        )

    def remove(self, name: str) -> bool:
        """Take a schedule and its history out of the ledger; False if there is none."""
        return bool(self._store.run("remove_schedule", name=name))

    def remember(self, name: str, firings: list[Firing]) -> None:
        """Set the firings, newest first, of a schedule that was found in the bucket and is not in the ledger yet."""
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.delete(self._store.keys.firings(name))
            for firing in firings:
                pipe.rpush(self._store.keys.firings(name), firing.model_dump_json())
            pipe.execute()

    def get(self, name: str) -> ScheduleRecord | None:
        """The record of a schedule. Raises RecordUnreadable."""
        with self._store.errors():
            text = self._store.redis.hget(self._store.keys.schedule(name), "record")
        return read_record(ScheduleRecord, str(text), what=f"schedule {name}") if text is not None else None

    def each(self) -> Iterator[ScheduleEntry]:
        """All schedules, by name, read page by page; one that cannot be read is an entry that says why."""
        names = self.names()
        for first in range(0, len(names), _PAGE):
            page = names[first : first + _PAGE]
            found = self._store.run("list_schedules", *page[1:], first=page[0])
            for name, text, firing in zip(page, found[::2], found[1::2], strict=True):
                if not text and not self._store.redis.exists(self._store.keys.schedule(name)):
                    continue  # removed since
                try:
                    record = read_record(ScheduleRecord, text, what=f"schedule {name}")
                except RecordUnreadable as error:
                    yield ScheduleEntry(name, error, None)
                else:
                    yield ScheduleEntry(name, record, next(_readable(name, filter(None, [firing])), None))

    def names(self) -> list[str]:
        """Names of all schedules."""
        with self._store.errors():
            return sorted(self._store.redis.zrange(self._store.keys.schedules, 0, -1))

    def due(self) -> list[str]:
        """Names of schedules that have a firing due."""
        now_ms = int(self._store.now().timestamp() * 1000)
        with self._store.errors():
            return list(self._store.redis.zrangebyscore(self._store.keys.schedules, "-inf", now_ms))

    def firings(self, name: str, limit: int = FIRINGS_KEPT) -> list[Firing]:
        """The last firings, newest first; one that cannot be read is left out, with a line in the log."""
        with self._store.errors():
            found = self._store.redis.lrange(self._store.keys.firings(name), 0, limit - 1)
        return list(_readable(name, found))


def _readable(name: str, texts: Iterable[str]) -> Iterator[Firing]:
    for text in texts:
        try:
            yield read_record(Firing, text, what=f"a firing of schedule {name}")
        except RecordUnreadable as error:
            log.warning("a firing is left out", schedule=name, reason=str(error))
