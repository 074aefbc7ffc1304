"""When cron expressions fire: calendars, and clocks that change. docs/schedules.md has the same cases in its table."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from pipeline.records.schedules.cron import checked_cron, due_times, next_after, times, zone

BERLIN, NEW_YORK, LORD_HOWE, CAIRO = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "schedules.md"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def firings(cron: str, tz: str, start: str, count: int) -> list[str]:
    """The first few after a moment in UTC, in UTC."""
    return [f"{moment:%m-%d %H:%M}" for moment in islice(times(cron, tz, utc(start)), count)]


# Berlin: 2027-03-28 02:00 becomes 03:00 (01:00 UTC); 2027-10-31 03:00 becomes 02:00 (01:00 UTC).
CLOCKS: list[tuple[str, str, str, list[str]]] = [
    # every day at an hour that is skipped once: as soon as it is over
    ("0 2 * * *", BERLIN, "2027-03-26 12:00", ["03-27 01:00", "03-28 01:00", "03-29 00:00"]),
    ("30 2 * * *", BERLIN, "2027-03-26 12:00", ["03-27 01:30", "03-28 01:00", "03-29 00:30"]),
    ("0 3 * * *", BERLIN, "2027-03-26 12:00", ["03-27 02:00", "03-28 01:00", "03-29 01:00"]),
    # several within the skipped hour are one
    ("0,20,40 2 * * *", BERLIN, "2027-03-27 12:00", ["03-28 01:00", "03-29 00:00", "03-29 00:20"]),
    ("0 2,3 * * *", BERLIN, "2027-03-27 12:00", ["03-28 01:00", "03-29 00:00", "03-29 01:00"]),
    # every day at an hour that comes twice: the first time
    ("0 2 * * *", BERLIN, "2027-10-29 12:00", ["10-30 00:00", "10-31 00:00", "11-01 01:00"]),
    ("30 2 * * *", BERLIN, "2027-10-29 12:00", ["10-30 00:30", "10-31 00:30", "11-01 01:30"]),
    ("0 3 * * *", BERLIN, "2027-10-29 12:00", ["10-30 01:00", "10-31 02:00", "11-01 02:00"]),
    # a star in hour or minute goes by elapsed time
    ("0 * * * *", BERLIN, "2027-03-27 23:30", ["03-28 00:00", "03-28 01:00", "03-28 02:00"]),
    ("0 * * * *", BERLIN, "2027-10-30 23:30", ["10-31 00:00", "10-31 01:00", "10-31 02:00"]),
    ("*/30 * * * *", BERLIN, "2027-10-31 00:00", ["10-31 00:30", "10-31 01:00", "10-31 01:30", "10-31 02:00"]),
    ("*/30 * * * *", BERLIN, "2027-03-28 00:00", ["03-28 00:30", "03-28 01:00", "03-28 01:30"]),
    # other zones: the other side of the Atlantic, half an hour, an hour from midnight
    ("30 2 * * *", NEW_YORK, "2027-03-13 12:00", ["03-14 07:00", "03-15 06:30"]),
    ("30 1 * * *", NEW_YORK, "2027-11-06 12:00", ["11-07 05:30", "11-08 06:30"]),
    ("15 2 * * *", LORD_HOWE, "2026-10-02 20:00", ["10-03 15:30", "10-04 15:15"]),
    ("45 1 * * *", LORD_HOWE, "2027-04-02 20:00", ["04-03 14:45", "04-04 15:15"]),
    ("0 0 * * *", CAIRO, "2027-04-28 12:00", ["04-28 22:00", "04-29 22:00", "04-30 21:00"]),
    # a zone that does not change
    ("0 2 * * *", "UTC", "2027-03-27 12:00", ["03-28 02:00", "03-29 02:00"]),
]

CALENDARS: list[tuple[str, str, list[str]]] = [
    ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-29", "2032-02-29", "2036-02-29"]),
    ("0 0 29 2 *", "2096-03-01 00:00", ["2104-02-29"]),  # 2100 is no leap year
    ("0 0 31 * *", "2027-01-01 00:00", ["2027-01-31", "2027-03-31", "2027-05-31", "2027-07-31", "2027-08-31"]),
    ("0 0 L * *", "2028-01-01 00:00", ["2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"]),
    ("0 0 LW * *", "2027-01-01 00:00", ["2027-01-29", "2027-02-26", "2027-03-31"]),
    ("0 0 * * MON#1", "2027-01-01 00:00", ["2027-01-04", "2027-02-01", "2027-03-01"]),
    ("0 0 * * 5L", "2027-01-01 00:00", ["2027-01-29", "2027-02-26", "2027-03-26"]),
    ("0 0 1 * MON", "2027-01-29 00:00", ["2027-02-01", "2027-02-08"]),  # day of month or of week
    ("0 0 1 1,7 *", "2027-01-02 00:00", ["2027-07-01", "2028-01-01"]),
    ("0 0 * * 7", "2027-01-01 00:00", ["2027-01-03"]),  # 0 and 7 are Sunday
]


@pytest.mark.parametrize(("cron", "tz", "start", "wanted"), CLOCKS)
def test_firings_around_a_change_of_clocks(cron: str, tz: str, start: str, wanted: list[str]) -> None:
    assert firings(cron, tz, start, len(wanted)) == wanted


@pytest.mark.parametrize(("cron", "start", "wanted"), CALENDARS)
def test_firings_of_calendars(cron: str, start: str, wanted: list[str]) -> None:
    assert [f"{moment:%Y-%m-%d}" for moment in islice(times(cron, "UTC", utc(start)), len(wanted))] == wanted


@pytest.mark.parametrize("tz", [BERLIN, NEW_YORK, LORD_HOWE, CAIRO, "America/Sao_Paulo", "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/17 * * * *", "0 */2 * * *", "15,45 0-3 * * *", "0 0 * * *"])
def test_a_firing_is_the_same_whenever_one_asks(cron: str, tz: str) -> None:
    """What fires does not depend on where the question begins: else a restart would double or skip a firing."""
    days = ("2026-10-03", "2027-03-13", "2027-03-27", "2027-04-03", "2027-04-29", "2027-10-30", "2027-11-06")
    for day in days:
        start = utc(day) - timedelta(hours=12)
        whole = times_until(cron, tz, start, start + timedelta(days=4))
        assert whole == sorted(set(whole))
        for minutes in range(0, 2880, 13):
            begin = start + timedelta(minutes=minutes)
            assert next_after(cron, tz, begin) == next(moment for moment in whole if moment > begin)


def times_until(cron: str, tz: str, start: datetime, end: datetime) -> list[datetime]:
    found = []
    for moment in times(cron, tz, start):
        found.append(moment)
        if moment > end:
            break
    return found


def test_asked_within_the_doubled_hour_no_firing_comes_again() -> None:
    after = utc("2027-10-31 01:10")  # 02:10 for the second time
    assert next_after("30 2 * * *", BERLIN, after) == utc("2027-11-01 01:30")


def test_of_what_is_due_the_newest_are_kept_and_the_older_counted() -> None:
    due = due_times("0 * * * *", "UTC", after=utc("2027-01-01 00:00"), until=utc("2027-01-01 05:00"), at_most=2)
    assert due.newest == (utc("2027-01-01 04:00"), utc("2027-01-01 05:00"))
    assert (due.older, due.last_older) == (3, utc("2027-01-01 03:00"))
    leap = due_times("0 0 29 2 *", "UTC", after=utc("2024-01-01 00:00"), until=utc("2026-11-01 00:00"), at_most=2)
    assert leap.newest == (utc("2024-02-29 00:00"),)
    none = due_times("0 * * * *", "UTC", after=utc("2027-01-01 00:00"), until=utc("2027-01-01 00:59"), at_most=2)
    assert (none.newest, none.older) == ((), 0)


def test_firings_of_the_last_year_are_counted_and_those_before_it_are_not() -> None:
    due = due_times("0 0 * * *", "UTC", after=utc("2020-01-01 00:00"), until=utc("2027-01-02 00:00"), at_most=1)
    assert due.newest == (utc("2027-01-02 00:00"),)
    assert (due.older, due.last_older) == (365, utc("2027-01-01 00:00"))


def test_an_expression_is_cleaned() -> None:
    assert checked_cron("  0  2 * *   mon-fri ") == "0 2 * * mon-fri"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0 2 * *", "has 4 fields; five wanted: minute hour"),
        ("", "has 0 fields"),
        ("@daily", "has 1 fields; five wanted"),
        ("0 0 2 * * *", "has 6 fields"),
        ("60 2 * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 2 32 * *", "bad day-of-month"),
        ("0 2 31 2 *", "bad day-of-month"),
        ("0 2 * 13 *", "bad month"),
        ("0 2 * * 8", "bad day-of-week"),
        ("*/0 2 * * *", "bad minute"),
        ("5-1 2 * * *", "bad minute"),
        ("٣ 2 * * *", "bad minute"),
        ("a b c d e", "bad minute"),
    ],
)
def test_a_bad_expression_is_refused_by_field(expression: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        checked_cron(expression)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Europe/Berlin2", "did you mean Europe/Berlin"),
        ("Berlin", "did you mean Europe/Berlin"),
        ("Mars/Olympus", "an IANA time zone wanted"),
        ("../../etc/passwd", "an IANA time zone wanted"),
        ("Europe", "an IANA time zone wanted"),
        ("", "an IANA time zone wanted"),
    ],
)
def test_an_unknown_zone_is_refused_with_what_is_near(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        zone(name)


def test_the_pages_table_is_what_happens() -> None:
    """Each line: an expression, the night in Berlin, and when it fires in UTC."""
    rows = re.findall(r"^\| `([^`]+)` \| (\d{4}-\d\d-\d\d) \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 6
    for cron, day, said in rows:
        start = datetime.fromisoformat(day).replace(tzinfo=zone(BERLIN)).astimezone(UTC)
        until = start + timedelta(hours=6)
        found = [
            f"{moment:%H:%M}"
            for moment in times_until(cron, BERLIN, start - timedelta(minutes=1), until)
            if moment <= until
        ]
        assert found == re.findall(r"\d\d:\d\d", said), cron
