"""What a schedule has to do next, from its record and the time alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pipeline.records.schedules.due import CATCH_UP_MOST, ON_TIME, Turn, next_turn
from pipeline.records.schedules.schedule import Run, ScheduleRecord, ScheduleSpec, new_record

MIDNIGHT = datetime.fromisoformat("2027-01-01T00:00Z")
HOUR = timedelta(hours=1)


def _hourly(**values: Any) -> ScheduleRecord:
    spec = ScheduleSpec.model_validate({"cron": "0 * * * *", "prompts": "s3://b/p.txt", **values})
    return new_record("s", spec, MIDNIGHT)


def test_a_firing_is_due_from_its_moment_on_and_not_before() -> None:
    assert next_turn(_hourly(), MIDNIGHT + HOUR - timedelta(seconds=1)) is None
    assert next_turn(_hourly(), MIDNIGHT + HOUR) == Turn("s", MIDNIGHT + HOUR)


def test_a_firing_is_late_when_more_than_the_time_allowed_has_passed() -> None:
    for passed, late in ((ON_TIME, False), (ON_TIME + timedelta(seconds=1), True)):
        assert next_turn(_hourly(), MIDNIGHT + HOUR + passed) == Turn("s", MIDNIGHT + HOUR, late=late)


def test_what_was_missed_is_one_turn_up_to_the_firing_before_the_newest() -> None:
    turn = next_turn(_hourly(), MIDNIGHT + 5 * HOUR)
    assert turn == Turn("s", MIDNIGHT + 4 * HOUR, late=True, missed=4)
    assert turn.id == "s-20270101T040000Z-missed"


def test_with_catch_up_the_oldest_of_the_last_hundred_is_fired_and_those_before_are_missed() -> None:
    record = _hourly(catch_up=True)
    oldest = next_turn(record, MIDNIGHT + CATCH_UP_MOST * HOUR)
    assert oldest == Turn("s", MIDNIGHT + HOUR, late=True)
    assert next_turn(record, MIDNIGHT + 102 * HOUR) == Turn("s", MIDNIGHT + 2 * HOUR, late=True, missed=2)


def test_those_asked_for_by_hand_come_first_in_the_order_in_which_they_were_asked_for() -> None:
    runs = tuple(Run(token=token, asked_at=MIDNIGHT) for token in ("000001", "000002"))
    turn = next_turn(_hourly().model_copy(update={"runs": runs}), MIDNIGHT + 5 * HOUR)
    assert turn == Turn("s", MIDNIGHT, run=runs[0])
    assert turn.id == "s-20270101T000000Z-000001"
