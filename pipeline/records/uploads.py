"""Prompt sets and pictures uploaded over HTTP: `uploads/<tenant>/files/<id>.csv` and, last, `records/<id>.json`."""

from __future__ import annotations

import re

from pydantic import Field

from pipeline.names import Id
from pipeline.schema import Versioned
from pipeline.stored import Moment

SCHEMA_VERSION = 1
UPLOADS = "uploads/"

_FILE_ID = re.compile(r"file-[0-9a-f]{24}")


class UploadRecord(Versioned):
    """An uploaded file. What its user calls it is shown, and says how it is read; it is part of no key."""

    schema_version: int = SCHEMA_VERSION
    id: str
    tenant: Id
    filename: str = Field(max_length=255)
    purpose: str = Field(max_length=40)
    size_bytes: int = Field(ge=0)
    created_at: Moment
    suffix: str = Field("", pattern=r"^[a-z.]{0,20}$", description="Of its key: how it is read, one of a fixed few.")

    @property
    def key(self) -> str:
        """Where the file lies."""
        return f"{upload_files(self.tenant)}{self.id}{self.suffix}"


def is_file_id(text: str) -> bool:
    """Whether an upload can have this id."""
    return _FILE_ID.fullmatch(text) is not None


def upload_files(tenant: str) -> str:
    """The folder of a tenant's uploaded files."""
    return f"{UPLOADS}{tenant}/files/"


def upload_records(tenant: str) -> str:
    """The folder of their records: a file without one was never uploaded as a whole."""
    return f"{UPLOADS}{tenant}/records/"


def upload_record_key(tenant: str, file_id: str) -> str:
    """Where the record of a file lies."""
    return f"{upload_records(tenant)}{file_id}.json"
