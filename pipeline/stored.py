"""What stored records are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

# A moment outside of these is damage; within them, a calendar can go years on and back.
EARLIEST, TOO_LATE = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def checked_moment(moment: datetime) -> datetime:
    """The moment in UTC. Raises ValueError if it is none of the years from 2000 to 2199."""
    if not EARLIEST <= moment < TOO_LATE:
        raise ValueError("a moment of another century found; one of the years 2000 to 2199 wanted")
    return moment.astimezone(UTC)


# A moment in a record: with a zone, so that any two can be compared.
Moment = Annotated[AwareDatetime, AfterValidator(checked_moment)]
