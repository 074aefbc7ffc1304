"""Schema versions: what two neighbouring versions of Tessera may expect of each other.

Every record, spec and line of a file carries the version of its shape. A reader takes what is at most one version newer
than itself and ignores (in the ledger: keeps) fields that it does not know, so whoever adds a field that must not be
ignored raises the version by two. Anything newer is refused with RecordTooNew, and put back as it was.

Whoever reads what was stored, in Redis, in the bucket, in a file or in a cluster, reads it with `read_record` or
`read_lines`, so that whatever can be wrong with it is one error, RecordUnreadable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import cache
from typing import Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError, field_validator
from pydantic_core import ErrorDetails

from pipeline.errors import RecordForeign, RecordTooNew, RecordUnreadable
from pipeline.stored import Record

M = TypeVar("M", bound=BaseModel)

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,39}")


class Versioned(Record):
    """Something that is written by one process and read by another, perhaps of another version."""

    schema_version: int

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


def read_record(kind: type[M], body: str | bytes, *, what: str) -> M:
    """A stored record from its JSON.

    `what` names it in the error: its key, its path or what it is called.

    Raises RecordUnreadable: RecordTooNew if a later version wrote it, RecordForeign if it is a record of another kind,
    and itself if it is damaged or holds something else in a known field.
    """
    try:
        return kind.model_validate_json(body)
    except RecordTooNew as error:
        raise RecordTooNew(what, error.found, error.wanted) from None
    except ValidationError as error:
        raise _unreadable(kind, body, what, error) from None  # the cause would show what was found


def read_lines(kind: type[M], lines: Iterable[bytes], *, what: str) -> Iterator[M]:
    """The records of a file with one a line; empty lines are none. Streams. Raises as `read_record`."""
    return (record for _, record in read_each(kind, lines, what=what))


def read_each(
    kind: type[M],
    lines: Iterable[bytes],
    *,
    what: str,
    on_unreadable: Callable[[RecordUnreadable], object] | None = None,
) -> Iterator[tuple[int, M]]:
    """The records of a file with one a line, as `read_lines`, each with the number of its line.

    A line that cannot be read is given to `on_unreadable` and costs itself only; without it, it raises.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = read_record(kind, line, what=f"{what}, line {number}")
        except RecordUnreadable as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
        else:
            yield number, record


def _unreadable(kind: type[BaseModel], body: str | bytes, what: str, error: ValidationError) -> RecordUnreadable:
    """What is wrong with it, in words that repeat none of its values: they are clients' material, or credentials."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    if not first["loc"] and first["type"] in ("json_invalid", "string_unicode"):
        return RecordUnreadable(what, _not_json(body), kind.__name__)
    if not first["loc"] and first["type"] in ("model_type", "model_attributes_type"):
        return RecordUnreadable(what, f"JSON of a {type(first['input']).__name__}", kind.__name__)
    missing = {problem["loc"][0] for problem in problems if problem["type"] == "missing" and len(problem["loc"]) == 1}
    needed = {field.alias or name for name, field in kind.model_fields.items() if field.is_required()}
    if (needed and needed <= missing) or any(_is_other_kind(kind, problem) for problem in problems):
        return RecordForeign(what, "another kind of record", kind.__name__)
    depth = 1 if issubclass(kind, RootModel) else 0  # behind the tag of a union
    fields = sorted({str(part) for problem in problems for part in problem["loc"][depth:][:1]} & _field_names(kind))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    where = f" in {', '.join(fields)}" if fields else ""
    return RecordUnreadable(what, f"{count}{where} ({first['type']})", kind.__name__)


def _field_names(kind: type[BaseModel]) -> set[str]:
    """The names of a record's fields; of a record that is one of several kinds, those of all."""
    if not issubclass(kind, RootModel):
        return set(kind.model_fields)
    annotation = kind.model_fields["root"].annotation
    kinds = get_args(annotation) or (annotation,)
    return {name for one in kinds for name in getattr(one, "model_fields", ())}  # it may be no record at all


def _not_json(body: str | bytes) -> str:
    if not body.strip():
        return "nothing"
    try:
        body.decode() if isinstance(body, bytes) else body.encode()
    except UnicodeError:
        return "no UTF-8 text"
    return "broken JSON"


def _is_other_kind(kind: type[BaseModel], problem: ErrorDetails) -> bool:
    """Whether the field that tells kinds apart names another: one of a single value, or the tag of a union."""
    if problem["type"].startswith("union_tag"):
        return True
    field = kind.model_fields.get(str(problem["loc"][0])) if len(problem["loc"]) == 1 else None
    tells = field is not None and get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    return tells and problem["type"] == "literal_error"


class OpenCode(StrEnum):
    """An enumeration of codes to which newer versions add: one that is not known here keeps its name."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not _CODE.fullmatch(value):
            return None
        code = str.__new__(cls, value)
        code._name_ = code._value_ = value
        return code
