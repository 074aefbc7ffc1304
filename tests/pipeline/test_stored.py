"""Moments in records can be compared with each other, and counted on from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import BaseModel

from pipeline.errors import RecordUnreadable
from pipeline.schema import read_record
from pipeline.stored import Moment


class Noted(BaseModel):
    """A record of the tests' own."""

    at: Moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00",
        "1999-12-31T23:59:59Z",
        "2000-01-01T00:00:00+02:00",
        "2199-12-31T23:00:00-02:00",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+12:00",
        "2026-02-30T00:00:00Z",
    ],
)
def test_a_moment_without_a_zone_or_of_another_century_makes_its_record_unreadable(text: str) -> None:
    with pytest.raises(RecordUnreadable, match="1 problem in at"):
        read_record(Noted, f'{{"at": "{text}"}}', what="a note")


def test_a_moment_is_brought_to_utc_and_read_again_as_it_was_written() -> None:
    noted = Noted(at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=5, minutes=30))))
    assert noted.at.isoformat() == "2026-01-01T21:34:05.000678+00:00"
    assert read_record(Noted, noted.model_dump_json(), what="a note") == noted
    assert noted.at.tzinfo is UTC
