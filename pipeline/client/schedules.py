"""Schedules as the Python client has them: `Client().schedules`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Required, TypedDict, Unpack

from pipeline.client.connection import Connection
from pipeline.errors import RecordUnreadable, UnknownSchedule
from pipeline.ledger.wakes import SCHEDULES
from pipeline.operations import schedules
from pipeline.operations.prompt_files import check_there
from pipeline.operations.status import Unreadable
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.promptset.fields.row import Options
from pipeline.records.schedules.cron import zone
from pipeline.records.schedules.schedule import (
    Firing,
    FiringOutcome,
    Overlap,
    ScheduleRecord,
    checked_name,
    checked_spec,
)
from pipeline.states import BATCH_MOVES, BatchState


@dataclass(frozen=True)
class FiringStatus:
    """A firing, and the state of its batch now: None if there is none, or if the ledger no longer knows it."""

    firing: Firing
    batch: BatchState | None

    @property
    def result(self) -> str:
        """One word: the state of its batch, or what became of the firing."""
        return self.batch.value if self.batch else self.firing.outcome.value

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        fields = self.firing.model_dump(mode="json", exclude={"schema_version", "rows_key"})
        submitted = self.firing.outcome is FiringOutcome.SUBMITTED
        return fields | {
            "batch": self.firing.id if submitted else None,
            "batch_state": self.batch,
            "result": self.result,
        }


@dataclass(frozen=True)
class ScheduleStatus:
    """The status of a schedule."""

    record: ScheduleRecord
    running: tuple[str, ...]
    last: FiringStatus | None

    @property
    def next_local(self) -> datetime | None:
        """When it fires next, in its own time zone."""
        return self.record.next_at.astimezone(zone(self.record.spec.tz)) if self.record.next_at else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        record = self.record
        return {
            "name": record.name,
            **record.spec.model_dump(mode="json"),
            "declared": record.declared,
            "paused": record.paused,
            "next_utc": record.next_at.isoformat() if record.next_at else None,
            "next_local": self.next_local.isoformat() if self.next_local else None,
            "running": list(self.running),
            "last": self.last.as_dict() if self.last else None,
        }


class ScheduleFields(TypedDict, total=False):
    """The fields of `ScheduleSpec` as keyword arguments, for editors and type checkers; a test compares the names."""

    cron: Required[str]
    tz: str
    prompts: Required[str]
    options: PictureFields | Options
    overrides: PictureFields | Options
    overlap: Overlap | Literal["forbid", "allow", "replace"]
    catch_up: bool
    only_new: bool
    vary_seed: bool
    seed: int | None
    tenant: str
    priority: int
    skip_invalid: bool
    comments: bool
    extra_columns: Literal["metadata"] | None


class Schedules:
    """The schedules of a deployment. Its controller fires them, whether or not any client is there."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._ledger, self._artifacts = connection, connection.ledger, connection.artifacts

    def add(
        self,
        name: str,
        *,
        update: bool = False,
        paused: bool = False,
        missing_ok: bool = False,
        **fields: Unpack[ScheduleFields],
    ) -> ScheduleStatus:
        """Add a schedule, which fires from now on.

        Args:
            name: 1 to 50 letters, digits, '.', '_' and '-'; batch ids begin with it.
            update: change one that is there.
            paused: it does not fire before `resume`.
            missing_ok: its prompts need not be there yet.
            fields: those of `ScheduleSpec`: when and what to render; `cron` and `prompts` must be there.

        Adding the same again changes nothing. Raises RequestError naming what cannot be used.
        """
        spec = checked_spec(fields)
        if not missing_ok:
            check_there(self._artifacts, spec.prompts)
        record, _news = schedules.add(self._ledger, self._artifacts, name, spec, update=update, paused=paused)
        return self._status(record)

    def get(self, name: str) -> ScheduleStatus:
        """Its status. Raises UnknownSchedule."""
        return self._status(self._record(name))

    def pause(self, name: str) -> ScheduleStatus:
        """Pause it: it fires no more. Batches that run go on. Raises UnknownSchedule."""
        return self._status(schedules.pause(self._ledger, self._artifacts, name))

    def resume(self, name: str) -> ScheduleStatus:
        """Resume it. What was due while it was paused is not made up for. Raises UnknownSchedule."""
        return self._status(schedules.resume(self._ledger, self._artifacts, name))

    def run_now(self, name: str, *, everything: bool = False) -> str:
        """Fire it once, now, even if it is paused; returns the id that its batch will have.

        `everything` also renders rows that are not new. Its overlap rule applies. Raises UnknownSchedule.
        """
        batch_id = schedules.run_now(self._ledger, name, everything=everything)
        self._ledger.wakes.ask(SCHEDULES)
        return batch_id

    def remove(self, name: str) -> None:
        """Remove it and its history. Its batches stay and go on. Raises UnknownSchedule, RequestError."""
        schedules.remove(self._ledger, self._artifacts, name)

    def history(self, name: str, limit: int = 20) -> Sequence[FiringStatus]:
        """Its last firings, newest first. Raises UnknownSchedule."""
        self._record(name)
        firings = self._ledger.schedules.firings(name, limit)
        states = self._ledger.batches.states([firing.id for firing in firings])
        return [_firing(firing, states) for firing in firings]

    def list(self) -> Sequence[ScheduleStatus | Unreadable]:
        """All schedules, by name; one whose record cannot be read is an entry that says why."""
        entries = list(self._ledger.schedules.each())
        asked = {one for entry in entries if isinstance(entry.record, ScheduleRecord) for one in entry.record.open}
        asked |= {entry.last.id for entry in entries if entry.last and entry.last.outcome is FiringOutcome.SUBMITTED}
        states = self._ledger.batches.states(sorted(asked))
        return [
            Unreadable.of(entry.name, entry.record)
            if isinstance(entry.record, RecordUnreadable)
            else _status(entry.record, entry.last, states)
            for entry in entries
        ]

    def _record(self, name: str) -> ScheduleRecord:
        record = self._ledger.schedules.get(checked_name(name))
        if record is None:
            raise UnknownSchedule(name)
        return record

    def _status(self, record: ScheduleRecord) -> ScheduleStatus:
        last = next(iter(self._ledger.schedules.firings(record.name, 1)), None)
        states = self._ledger.batches.states([*record.open, *([last.id] if last else ())])
        return _status(record, last, states)


def _status(record: ScheduleRecord, last: Firing | None, states: Mapping[str, BatchState]) -> ScheduleStatus:
    running = tuple(batch_id for batch_id in record.open if states.get(batch_id) in BATCH_MOVES)
    return ScheduleStatus(record, running, _firing(last, states) if last else None)


def _firing(firing: Firing, states: Mapping[str, BatchState]) -> FiringStatus:
    """A ledger that was emptied does not get finished batches back: their state is None."""
    return FiringStatus(firing, states.get(firing.id) if firing.outcome is FiringOutcome.SUBMITTED else None)
