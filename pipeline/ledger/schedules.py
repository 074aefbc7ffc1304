"""Schedules in the ledger."""

from __future__ import annotations

from pipeline.errors import StaleWrite
from pipeline.ledger.store import Store
from pipeline.records.schedules.schedule import Firing, ScheduleRecord
from pipeline.schema import read_record

FIRINGS_KEPT = 200


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
        """The last firings, newest first. Raises RecordUnreadable."""
        with self._store.errors():
            found = self._store.redis.lrange(self._store.keys.firings(name), 0, limit - 1)
        return [read_record(Firing, text, what=f"a firing of schedule {name}") for text in found]
