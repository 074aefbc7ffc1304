"""Uploaded prompt sets and pictures: put, found, listed, removed."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import IO

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch
from pipeline.errors import RecordUnreadable, RequestError, UnknownFile
from pipeline.inputs.plain import MAX_BYTES
from pipeline.operations.status import Unreadable
from pipeline.promptset.formats.source import suffixes
from pipeline.records.uploads import (
    UploadRecord,
    is_file_id,
    upload_files,
    upload_record_key,
    upload_records,
)

PICTURE = "picture"  # the purpose of a file that rows begin with
_NAME_CHARACTERS = 255


def put_upload(
    artifacts: Artifacts, file: IO[bytes], *, tenant: str, filename: str, purpose: str, at: datetime
) -> UploadRecord:
    """Copy a file into the bucket, part by part, and then its record, which makes it one. Raises RequestError."""
    file_id = f"file-{secrets.token_hex(12)}"
    name = filename.replace("\\", "/").rpartition("/")[2][-_NAME_CHARACTERS:] or "upload"
    size_bytes = file.seek(0, 2)
    file.seek(0)
    if purpose == PICTURE:
        _check_size(size_bytes)
    record = UploadRecord(
        id=file_id,
        tenant=tenant,
        filename=name,
        purpose=purpose,
        size_bytes=size_bytes,
        created_at=at,
        suffix=_suffix(name) or (".jsonl" if purpose == "batch" else ""),
    )
    artifacts.put(record.key, file, content_type="application/octet-stream")
    body = record.model_dump_json().encode()
    artifacts.put(upload_record_key(tenant, file_id), body, content_type="application/json")
    return record


def get_upload(artifacts: Artifacts, tenant: str, file_id: str) -> UploadRecord:
    """The record of an upload of this tenant. Raises UnknownFile."""
    key = upload_record_key(tenant, file_id)
    record = fetch(UploadRecord, artifacts, key) if is_file_id(file_id) else None
    if record is None:
        raise UnknownFile(file_id)
    return record


def get_picture(artifacts: Artifacts, tenant: str, file_id: str) -> tuple[bytes, str]:
    """An uploaded picture of this tenant, and what its user calls it. Raises UnknownFile, RequestError."""
    record = get_upload(artifacts, tenant, file_id)
    _check_size(record.size_bytes)
    if (body := artifacts.get(record.key, MAX_BYTES)) is None:
        raise UnknownFile(file_id)
    return body, record.filename if record.filename.isprintable() else ascii(record.filename)


def list_uploads(artifacts: Artifacts, tenant: str) -> Iterator[UploadRecord | Unreadable]:
    """The uploads of a tenant, by id; one whose record cannot be read is an entry that says why."""
    folder = upload_records(tenant)
    for key in artifacts.list(folder):
        try:
            record = fetch(UploadRecord, artifacts, key)
        except RecordUnreadable as error:
            yield Unreadable.of(key.removeprefix(folder).removesuffix(".json"), error)
        else:
            yield from [] if record is None else [record]


def remove_upload(artifacts: Artifacts, tenant: str, file_id: str) -> None:
    """Remove an upload, whatever can be read of it; batches that were made of it have rows of their own.

    Raises UnknownFile.
    """
    try:
        files = [get_upload(artifacts, tenant, file_id).key]
    except RecordUnreadable:  # nobody knows what its file's name ends in
        stem = f"{upload_files(tenant)}{file_id}"
        files = list(
            itertools.takewhile(lambda key: key.startswith(stem), artifacts.list_from(upload_files(tenant), stem))
        )
    artifacts.delete_all([upload_record_key(tenant, file_id), *files])


def _check_size(size_bytes: int) -> None:
    """Raise RequestError for a file that is too large for a picture."""
    if size_bytes > MAX_BYTES:
        raise RequestError(f"a picture of {size_bytes:,} bytes found; at most {MAX_BYTES:,} wanted")


def _suffix(filename: str) -> str:
    """The end of the name that says how a prompt set is written; nothing if it does not say so."""
    name = filename.lower()
    ends = (f"{suffix}{packed}" for suffix in suffixes() for packed in ("", ".gz", ".zst"))
    return next((end for end in ends if name.endswith(end)), "")
