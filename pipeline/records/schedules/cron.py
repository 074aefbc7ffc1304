"""When a cron expression fires in a zone, in UTC. What happens when clocks change stands in docs/schedules.md.

The arithmetic is cronsim's, which follows Debian's cron: an hour that is skipped is made up for as soon as it is over,
an hour that comes twice counts once, unless the expression names every hour or minute (a star).
"""

from __future__ import annotations

import difflib
import zoneinfo
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

FIELDS = "minute hour day-of-month month day-of-week"
# Older firings than these are no longer counted, should a controller have been away that long.
_LOOKS_BACK = timedelta(days=366)
_ANY_TIME = datetime(2024, 1, 1, tzinfo=UTC)


def zone(name: str) -> zoneinfo.ZoneInfo:
    """The zone of that IANA name. Raises ValueError naming what is near."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        known = sorted(zoneinfo.available_timezones())
        near = difflib.get_close_matches(name, known, n=3) or [one for one in known if one.endswith(f"/{name}")]
        hint = f"; did you mean {' or '.join(near)}?" if near else ", as in Europe/Berlin or UTC"
        raise ValueError(f"{name[:80]!r} found; an IANA time zone wanted{hint}") from error


@lru_cache(maxsize=4096)  # a list of ten thousand schedules has few expressions
def checked_cron(expression: str) -> str:
    """The expression with single blanks. Raises ValueError if it cannot be read, or never fires."""
    fields = expression.split()
    if len(fields) != 5:
        example = "0 2 * * * is every night at two"
        raise ValueError(f"{expression[:80]!r} has {len(fields)} fields; five wanted: {FIELDS} ({example})")
    cleaned = " ".join(fields)
    try:
        next(CronSim(cleaned, _ANY_TIME))
    except CronSimError as error:
        raise ValueError(f"{cleaned!r}: {str(error).lower()}; wanted are {FIELDS}, in their ranges") from error
    except StopIteration:
        raise ValueError(f"{cleaned!r} names a date that does not come; a schedule has to fire one day") from None
    return cleaned


def times(expression: str, tz: str, after: datetime) -> Iterator[datetime]:
    """The moments at which it fires after `after`, in UTC, strictly rising."""
    last = after.astimezone(UTC)
    for moment in CronSim(expression, after.astimezone(zone(tz))):
        # Asked within an hour that comes twice, cronsim begins with the first of the two.
        if (found := moment.astimezone(UTC)) > last:
            last = found
            yield found


def next_after(expression: str, tz: str, after: datetime) -> datetime:
    """The first moment after `after` at which it fires, in UTC."""
    return next(times(expression, tz, after))


@dataclass(frozen=True)
class Due:
    """Firings that are due: the newest few in their order, and how many older ones there were before them."""

    newest: tuple[datetime, ...]
    older: int
    last_older: datetime | None


def due_times(expression: str, tz: str, *, after: datetime, until: datetime, at_most: int) -> Due:
    """Firings after `after` and not after `until`; `at_most` of them are kept."""
    newest: deque[datetime] = deque(maxlen=at_most)
    older, last_older = 0, None
    # What fires so rarely that the usual window holds nothing is looked for from the beginning.
    for begin in sorted({after, max(after, until - _LOOKS_BACK)}, reverse=True):
        for moment in times(expression, tz, begin):
            if moment > until:
                break
            if len(newest) == at_most:
                older, last_older = older + 1, newest[0]
            newest.append(moment)
        if newest:
            break
    return Due(tuple(newest), older, last_older)
