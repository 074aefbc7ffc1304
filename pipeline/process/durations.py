"""Spans of time as people write them: 30d, 12h, 1h30m, 45s."""

from __future__ import annotations

import re
from datetime import timedelta

from pipeline.errors import RequestError

LONGEST_DAYS = 36_525
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])")


def parsed_duration(text: str) -> timedelta:
    """The span. Raises RequestError if it is none, or not above zero."""
    parts = _PART.findall(text)
    span = timedelta()
    if parts and "".join(number + unit for number, unit in parts) == text:
        try:
            span = sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
        except OverflowError as error:
            raise RequestError(f"{text[:40]!r} found; a span of less than a million years wanted") from error
    if span > timedelta(days=LONGEST_DAYS):
        raise RequestError(f"{text[:40]!r} found; a span of at most 100 years wanted")
    if not span:
        raise RequestError(f"{text[:40]!r} found; a span as in 30d, 12h, 1h30m or 45s wanted")
    return span
