"""What a schedule has to do next: a pure function of its record and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.records.schedules.cron import due_times
from pipeline.records.schedules.schedule import FiringOutcome, Run, ScheduleRecord, firing_id

# With catch_up, so many missed firings are made up for; older ones are not.
CATCH_UP_MOST = 100
# A firing that is seen to later than this was missed: nobody was there, or others were before it.
ON_TIME = timedelta(minutes=1)


@dataclass(frozen=True)
class Turn:
    """One firing to see to: the time it was due, whether by hand, or that it and older ones are not made up for."""

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
    """The firing to see to now, oldest first, what was asked for by hand before all others; None if none is due."""
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
