"""What a schedule has to do next: a pure function of its record and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.records.schedules.cron import due_times
from pipeline.records.schedules.schedule import FiringOutcome, Run, ScheduleRecord, firing_id

# With catch_up, so many missed firings are fired late; older ones are skipped.
CATCH_UP_MOST = 100
# A firing that is handled later than this is late: no controller ran, or other firings came first.
ON_TIME = timedelta(minutes=1)


@dataclass(frozen=True)
class Turn:
    """One firing to handle.

    Attributes:
        fire_at: when it was due.
        late: it is handled later than ON_TIME after that.
        run: set if somebody asked for it by hand.
        missed: if not 0, so many firings up to this one are skipped for good, instead of fired late.
    """

    schedule: str
    fire_at: datetime
    late: bool = False
    run: Run | None = None
    missed: int = 0

    @property
    def id(self) -> str:
        """The id of the firing, and of its batch."""
        stem = firing_id(self.schedule, self.fire_at, self.run.token if self.run else "")
        return f"{stem}-{FiringOutcome.MISSED}" if self.missed else stem


def next_turn(record: ScheduleRecord, now: datetime) -> Turn | None:
    """The firing to handle now: one asked for by hand first, else the oldest that is due; None if none is due."""
    if record.runs:
        run = record.runs[0]
        return Turn(record.name, run.asked_at, run=run)
    if record.next_at is None or record.next_at > now:
        return None
    spec = record.spec
    due = due_times(spec.cron, spec.tz, after=record.cursor, until=now, at_most=CATCH_UP_MOST if spec.catch_up else 1)
    if due.last_older is not None:
        return Turn(record.name, due.last_older, late=True, missed=due.older)
    if not due.newest:
        return None
    return Turn(record.name, due.newest[0], late=now - due.newest[0] > ON_TIME)
