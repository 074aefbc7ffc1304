"""A schedule as its user writes it, as the ledger holds it, and what became of each of its firings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_validator,
)

from pipeline.deployment.tenants import Tenant
from pipeline.errors import RequestError
from pipeline.names import Id
from pipeline.promptset.fields.row import Options
from pipeline.promptset.fields.values import ANY_SEED, MAX_SEED
from pipeline.promptset.validate import fields_errors
from pipeline.records.batch import PRIORITIES
from pipeline.records.object_keys import ObjectKey, check_rows_key
from pipeline.records.schedules.cron import checked_cron, next_after, zone
from pipeline.stored import Moment, Record

SCHEMA_VERSION = 1

# Names alone: users write many values in more ways than one (a size as 832x1216), which the program reads.
_OPTIONS_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {name: {"description": field.description} for name, field in Options.model_fields.items()},
}

# A batch id is the name, the moment and for a run by hand six digits: 80 characters at most.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}"
_S3_URL = r"s3://([A-Za-z0-9][A-Za-z0-9._-]*)/(.+)"


class Overlap(StrEnum):
    """What a firing does if a batch of the schedule is not finished yet."""

    FORBID = "forbid"  # it is skipped
    ALLOW = "allow"  # both run
    REPLACE = "replace"  # the older is cancelled


class FiringOutcome(StrEnum):
    """What became of a firing."""

    SUBMITTED = "submitted"
    SKIPPED = "skipped"  # nothing was to be rendered, or a batch was in the way
    MISSED = "missed"  # nobody was there to fire, and it is not caught up
    FAILED = "failed"  # the prompt set could not be read, or was refused


def _zone_name(name: str) -> str:
    return zone(name).key


def _s3_url(url: str) -> str:
    if not re.fullmatch(_S3_URL, url):
        raise ValueError(f"{url[:200]!r} found; s3://bucket/key wanted: the controller reads it, not this machine")
    return url


def _unset(options: Options) -> bool:
    return not options.model_fields_set


class ScheduleSpec(Record):
    """What a schedule renders, and when."""

    model_config = ConfigDict(extra="forbid")

    cron: Annotated[str, AfterValidator(checked_cron)] = Field(
        description="Five fields: minute, hour, day of month, month, day of week; as Debian's cron reads them.",
        json_schema_extra={"pattern": r"^\s*(\S+\s+){4}\S+\s*$"},
    )
    tz: Annotated[str, AfterValidator(_zone_name)] = Field("UTC", description="IANA time zone of the times.")
    prompts: Annotated[str, AfterValidator(_s3_url)] = Field(
        description="s3://bucket/key of the prompt set; read anew by the controller at each firing.",
        json_schema_extra={"pattern": f"^{_S3_URL}$"},
    )
    options: Annotated[Options, WithJsonSchema(_OPTIONS_SCHEMA)] = Field(
        default_factory=Options, description="Defaults for rows that do not set a field themselves."
    )
    overrides: Annotated[Options, WithJsonSchema(_OPTIONS_SCHEMA)] = Field(
        default_factory=Options, exclude_if=_unset, description="Replace what rows say themselves."
    )
    overlap: Overlap = Field(
        Overlap.FORBID, description="If a batch of the schedule still runs: skip, run beside, replace."
    )
    catch_up: bool = Field(False, description="Fire for each time that was missed, not only for the latest.")
    only_new: bool = Field(False, description="Render only rows that are new or changed since the last firing.")
    vary_seed: bool = Field(False, description="Rows without a seed get another one at each firing.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Batch seed; by default it follows from the name.")
    tenant: Tenant = Field("default", description="Who shares fairly with whom.")
    priority: int = Field(5, ge=PRIORITIES[0], le=PRIORITIES[-1], description="0 is served first, 9 last.")
    skip_invalid: bool = Field(False, description="Leave invalid rows out instead of refusing them all.")
    comments: bool = Field(
        False, exclude_if=lambda value: not value, description="Lines of a text that begin with # are no prompts."
    )
    extra_columns: Literal["metadata"] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Where columns of a table go that are no fields; by default they are errors.",
    )

    @field_serializer("options", "overrides")
    def _dump_set_options(self, options: Options) -> dict[str, Any]:
        return options.model_dump(mode="json", exclude_unset=True)

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        fixed = {
            "only_new": self.only_new,
            "seed": self.seed is not None,
            "options.seed": self.options.seed not in (None, ANY_SEED),
            "overrides.seed": self.overrides.seed not in (None, ANY_SEED),
        }
        if self.vary_seed and (other := next((name for name, given in fixed.items() if given), None)):
            raise ValueError(f"vary_seed and {other} found; each firing has other seeds, or not: one of them wanted")
        return self

    def next_after(self, moment: datetime) -> datetime:
        """The first firing after a moment, in UTC."""
        return next_after(self.cron, self.tz, moment)


def checked_name(name: str) -> str:
    """The name itself. Raises RequestError if no batch id could be made of it."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise RequestError(
            f"schedule name {name[:100]!r}: 1 to 50 letters, digits, '.', '_' and '-' wanted, a letter or digit first"
        )
    return name


def checked_spec(values: Any) -> ScheduleSpec:
    """A schedule of these values. Raises RequestError naming each that cannot be used."""
    try:
        return ScheduleSpec.model_validate(values)
    except ValidationError as error:
        problems = [_problem(problem) for problem in error.errors(include_url=False)]
        for level in ("options", "overrides"):
            options = values.get(level) if isinstance(values, Mapping) else None
            if isinstance(options, Mapping):
                problems = [problem for problem in problems if not problem.startswith(level)]
                problems += [f"{level}.{wrong.field}: {wrong.message}" for wrong in fields_errors(0, options, Options)]
        raise RequestError("; ".join(problems)) from error


def _problem(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    match problem["type"]:
        case "missing":
            message = "missing"
        case "extra_forbidden":
            message = f"no such field; known are {', '.join(ScheduleSpec.model_fields)}"
        case "model_type" | "model_attributes_type":
            message = "an object wanted" if where else "an object with cron and prompts wanted"
        case "value_error":
            pass
        case _:
            message += f" ({str(problem['input'])[:60]!r} found)"
    return f"{where}: {message}" if where else message


class _Record(Record):
    # extra="allow" keeps what a newer version wrote through a read and a write of an older one
    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION


class Run(_Record):
    """A firing that somebody asked for by hand."""

    token: str
    asked_at: Moment
    everything: bool = Field(False, description="Also the rows that are not new.")


class Firing(_Record):
    """What became of one firing."""

    id: Id = Field(description="That of its batch, should it have one.")
    fire_at: Moment = Field(description="When it was due, in UTC.")
    by_hand: bool = False
    outcome: FiringOutcome
    reason: str | None = Field(None, description="Why it was skipped, missed or failed.")
    recorded_at: Moment
    rows: int = 0
    images: int = 0
    unchanged: int = Field(0, description="Rows that were left out because they are not new.")
    unreached: dict[str, int] = Field(
        default_factory=dict,
        exclude_if=lambda counts: not counts,
        description="Rows where an option has no effect, by its name.",
    )
    replaced: tuple[Id, ...] = Field((), description="Batches that were cancelled for it.")
    rows_key: ObjectKey | None = Field(None, description="Where the digests of its rows lie.")

    @field_validator("rows_key")
    @classmethod
    def _check_rows_key(cls, key: str | None, others: ValidationInfo) -> str | None:
        if key is not None and "id" in others.data:
            name = key.split("/")[1:2]
            check_rows_key(key, "".join(name) if others.data["id"].startswith(f"{''.join(name)}-") else "")
        return key


class ScheduleRecord(_Record):
    """A schedule in the ledger."""

    name: Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]
    spec: ScheduleSpec
    declared: bool = Field(False, description="The deployment's settings say it; only they change it.")
    paused: bool = False
    revision: int = 1
    created_at: Moment
    updated_at: Moment
    cursor: Moment = Field(description="Every firing up to here has been seen to.")
    next_at: Moment | None = Field(None, description="The first firing after the cursor; None while it is paused.")
    runs: tuple[Run, ...] = Field((), description="Asked for by hand and not seen to yet.")
    open: tuple[Id, ...] = Field((), description="Batches of it that were not finished when last looked at.")
    rows_key: ObjectKey | None = Field(None, description="Where the digests of the rows of the last firing lie.")

    @field_validator("rows_key")
    @classmethod
    def _check_rows_key(cls, key: str | None, others: ValidationInfo) -> str | None:
        if key is not None and "name" in others.data:
            check_rows_key(key, others.data["name"])
        return key


def new_record(name: str, spec: ScheduleSpec, now: datetime, **values: Any) -> ScheduleRecord:
    """A schedule that fires from now on."""
    record = ScheduleRecord(name=name, spec=spec, created_at=now, updated_at=now, cursor=now, **values)
    return record.model_copy(update={"next_at": _next(record)})


def changed(record: ScheduleRecord, *, at: datetime, **changes: Any) -> ScheduleRecord:
    """The record with `changes`, one revision on, its next firing computed anew."""
    after = record.model_copy(update={"revision": record.revision + 1, "updated_at": at, **changes})
    return after.model_copy(update={"next_at": _next(after)})


def _next(record: ScheduleRecord) -> datetime | None:
    return None if record.paused else record.spec.next_after(record.cursor)


def firing_id(name: str, fire_at: datetime, token: str = "") -> str:
    """The id of a firing and of its batch: it follows from name and moment, so that firing twice is firing once."""
    stamp = f"{name}-{fire_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    return f"{stamp}-{token}" if token else stamp
