"""Schema versions: what two neighbouring versions of Tessera may expect of each other.

Every record, spec and line of a file carries the version of its shape. A reader takes what is at most one version newer
than itself and ignores (in the ledger: keeps) fields that it does not know, so whoever adds a field that must not be
ignored raises the version by two. Anything newer is refused with RecordTooNew, and put back as it was.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from typing import Self

from pydantic import BaseModel, ValidationError, field_validator

from pipeline.errors import RecordTooNew, RecordUnreadable

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,39}")


class Versioned(BaseModel):
    """Something that is written by one process and read by another, perhaps of another version."""

    schema_version: int

    @classmethod
    def parsed(cls, text: str | bytes) -> Self:
        """From JSON. Raises RecordUnreadable, also where another version writes something else in a known field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RecordUnreadable(f"a {cls.__name__} cannot be read: {error.error_count()} problems") from error

    @field_validator("schema_version")
    @classmethod
    def _readable(cls, found: int) -> int:
        if found > (newest := _known(cls) + 1):
            raise RecordTooNew(cls.__name__, found, newest)
        return found


@cache  # a million rows are read
def _known(kind: type[Versioned]) -> int:
    version: int = kind.model_fields["schema_version"].default
    return version


class OpenCode(StrEnum):
    """An enumeration of codes to which newer versions add: one that is not known here keeps its name."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not _CODE.fullmatch(value):
            return None
        code = str.__new__(cls, value)
        code._name_ = code._value_ = value
        return code
