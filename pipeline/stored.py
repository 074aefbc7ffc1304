"""What stored records are made of: whatever can be read can be written, read again, and compared with the time now."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict

# A moment outside of these is damage; within them, a calendar can go years on and back.
EARLIEST, TOO_LATE = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def checked_moment(moment: datetime) -> datetime:
    """The moment in UTC. Raises ValueError if it is none of the years from 2000 to 2199."""
    if not EARLIEST <= moment < TOO_LATE:
        raise ValueError("a moment of another century found; one of the years 2000 to 2199 wanted")
    return moment.astimezone(UTC)


def _checked_json(value: Any) -> Any:
    """The value itself, of JSON that was read. Raises ValueError if there is a number in it that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite found")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _checked_json(part)
    return value


# A moment in a record: with a zone, so that any two can be compared.
Moment = Annotated[AwareDatetime, AfterValidator(checked_moment)]

# Anything that JSON can say, as it came.
AnyJson = Annotated[Any, AfterValidator(_checked_json)]


class Record(BaseModel):
    """A stored record, or a part of one. JSON has neither NaN nor infinity, so a record has none either.

    Errors repeat none of its values: they are clients' material, or credentials.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)

    __pydantic_extra__: dict[str, AnyJson]  # where `extra` is "allow"
