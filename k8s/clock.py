"""The clock of the API server, which writes the times of its objects: how long something waits is counted by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class ServerClock:
    """What the server's answers say about its time; ours, until one has said something."""

    def __init__(self) -> None:
        self._ahead = timedelta()  # of our clock

    def now(self) -> datetime:
        """The time at the server, to about a second."""
        return datetime.now(UTC) + self._ahead

    def note(self, date: str | None) -> None:
        """Note the `Date` of an answer that has just come; one that cannot be read says nothing."""
        try:
            self._ahead = parsedate_to_datetime(date or "").astimezone(UTC) - datetime.now(UTC)
        except ValueError:
            return
