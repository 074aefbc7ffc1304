"""The last object of a batch: `_SUCCESS`, `_CANCELLED` or `_FAILED`, and what it vouches for."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.names import MAX_IMAGES_OF_BATCH
from pipeline.schema import Versioned, read_record
from pipeline.states import BatchState
from pipeline.stored import Record

SCHEMA_VERSION = 1


class FileDigest(Record):
    """A file as it was written."""

    sha256: str
    size_bytes: int = Field(ge=0)


class Vouched(Record):
    """What was true of a batch when its marker was written."""

    images: int = Field(ge=0, le=MAX_IMAGES_OF_BATCH, description="As accepted.")
    succeeded: int = Field(ge=0)
    failed: int = Field(ge=0)
    cancelled: int = Field(ge=0)
    jobs: int = Field(ge=0)
    input_sha256: str
    results: FileDigest
    errors: FileDigest

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if self.jobs > self.images or self.unknown < 0:
            raise ValueError("more jobs or outcomes than images")
        return self

    @property
    def unknown(self) -> int:
        """Images of which nothing is known: only of a batch that failed because its rows are gone."""
        return self.images - self.succeeded - self.failed - self.cancelled


class EndMarker(Versioned):
    """How a batch ended. `vouched` is None where an earlier version wrote it, or no job of the batch was ever made."""

    schema_version: int = SCHEMA_VERSION
    state: BatchState
    reason: str | None = Field(None, description="Why it failed.")
    vouched: Vouched | None = None
    damaged: bool = Field(False, exclude=True, description="Nothing but its name could be read.")

    def to_bytes(self) -> bytes:
        """The marker as it is stored."""
        return self.model_dump_json().encode() + b"\n"


def read_marker(body: bytes, state: BatchState, *, what: str) -> EndMarker:
    """The marker of a batch that ended in this state; `what` is its key.

    Earlier versions wrote nothing, or the bare reason of a failure; anything else that is no marker is a damaged one.
    So is the marker of another state. Raises RecordTooNew.
    """
    try:
        marker = read_record(EndMarker, body, what=what)
    except RecordTooNew:
        raise
    except RecordUnreadable:
        reason = _bare_reason(body) if state is BatchState.FAILED else None
        return EndMarker(state=state, reason=reason, damaged=bool(body.strip()) and reason is None)
    return marker if marker.state is state else EndMarker(state=state, damaged=True)


def _bare_reason(body: bytes) -> str | None:
    text = body.decode(errors="replace").strip()
    return text if text.isprintable() and not text.startswith("{") and text else None
