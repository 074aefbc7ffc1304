"""Prompt sets that were uploaded over HTTP: `uploads/<tenant>/<id>` and, last, its record beside it, `<id>.json`."""

from __future__ import annotations

import re
from datetime import datetime

from pydantic import ConfigDict, Field

from pipeline.names import Id
from pipeline.schema import Versioned

SCHEMA_VERSION = 1
UPLOADS = "uploads/"

_FILE_ID = re.compile(r"file-[0-9a-f]{24}")


class UploadRecord(Versioned):
    """An uploaded file. What its user calls it is shown, and says how it is read; it is part of no key."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    schema_version: int = SCHEMA_VERSION
    id: str
    tenant: Id
    filename: str = Field(max_length=255)
    purpose: str = Field(max_length=40)
    size_bytes: int = Field(ge=0)
    created_at: datetime


def is_file_id(text: str) -> bool:
    """Whether an upload can have this id."""
    return _FILE_ID.fullmatch(text) is not None


def uploads_of(tenant: str) -> str:
    """The folder of a tenant's uploads."""
    return f"{UPLOADS}{tenant}/"


def upload_key(tenant: str, file_id: str) -> str:
    """Where the file lies."""
    return f"{uploads_of(tenant)}{file_id}"


def upload_record_key(tenant: str, file_id: str) -> str:
    """Where its record lies: a file without one was never uploaded as a whole."""
    return f"{upload_key(tenant, file_id)}.json"
