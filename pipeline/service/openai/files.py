"""`/v1/files`: prompt sets and pictures in, outputs of batches out. An upload goes to the bucket part by part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from starlette.responses import StreamingResponse

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RequestError
from pipeline.operations.status import Unreadable
from pipeline.operations.uploads import get_upload, list_uploads, put_upload, remove_upload
from pipeline.records.uploads import UploadRecord
from pipeline.service.access import Caller, Reader, Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.links import Base
from pipeline.service.openai.outputs import ERRORS, OUTPUT, error_lines, output_lines
from pipeline.service.openai.shapes import FileObject, FilePage
from pipeline.service.own import own_batch
from pipeline.service.streamed import begun

router = APIRouter(prefix="/v1/files", tags=["openai"], route_class=CallerRoute)
own_router = APIRouter(prefix="/api/files", tags=["files"], route_class=CallerRoute)


@router.post("")
def upload(
    service: ServiceOf, caller: Submitter, file: UploadFile, purpose: Annotated[str, Form(max_length=40)]
) -> FileObject:
    """Upload a prompt set, in any form of docs/prompt-sets.md, or a picture, which rows name as `upload://ID`.

    Of purpose `batch`, a prompt set is JSON Lines. A picture's purpose is `picture`.
    """
    return _put(service, caller, file, purpose)


@own_router.post("")
def upload_our_own(
    service: ServiceOf,
    caller: Submitter,
    file: UploadFile,
    purpose: Annotated[Literal["prompts", "picture"], Form()] = "prompts",
    tenant: str | None = None,
) -> FileObject:
    """Upload a prompt set, in any form of docs/prompt-sets.md, or a picture, which rows name as `upload://ID`."""
    return _put(service, caller, file, purpose, tenant)


def _put(service: Service, caller: Caller, file: UploadFile, purpose: str, tenant: str | None = None) -> FileObject:
    record = put_upload(
        service.artifacts,
        file.file,
        tenant=caller.tenant_of_new(tenant),
        filename=file.filename or "",
        purpose=purpose,
        at=service.ledger.now(),
    )
    return _shown(record)


@router.get("")
def list_files(
    service: ServiceOf,
    caller: Reader,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> FilePage:
    """The uploads, by id; one that cannot be read has an error for its status, and no purpose."""
    if caller.operator:
        raise RequestError("an operator's token belongs to no tenant; files are listed with a tenant's own")
    wanted = (
        record
        for record in list_uploads(service.artifacts, caller.tenant)
        if purpose in (None, "" if isinstance(record, Unreadable) else record.purpose)
        and (after is None or record.id > after)
    )
    found = [record for record, _ in zip(wanted, range(limit + 1), strict=False)]
    return FilePage.of([_shown(record) for record in found[:limit]], has_more=len(found) > limit)


@router.get("/{file_id}")
def get_file(service: ServiceOf, caller: Reader, base: Base, file_id: str) -> FileObject:
    """An upload, or the output or the errors of a batch."""
    if (found := _of_batch(file_id)) is None:
        return _shown(_uploaded(service, caller, file_id))
    _, batch_id = found
    status = own_batch(service, caller, batch_id).status()
    body = sum(map(len, _lines(service, base, found)))
    return FileObject(
        id=file_id,
        bytes=body,
        created_at=int(status.updated_at.timestamp()),
        filename=f"{file_id}.jsonl",
        purpose="batch_output",
    )


@router.get("/{file_id}/content")
def get_content(service: ServiceOf, caller: Reader, base: Base, file_id: str) -> StreamingResponse:
    """What is in it."""
    if (found := _of_batch(file_id)) is None:
        record = _uploaded(service, caller, file_id)
        chunks = service.artifacts.chunks_of(service.artifacts.root + record.key)
        return begun(chunks, "application/octet-stream")
    own_batch(service, caller, found[1])
    return begun(_lines(service, base, found), "application/x-ndjson")


@router.delete("/{file_id}")
def delete_file(service: ServiceOf, caller: Submitter, file_id: str) -> dict[str, Any]:
    """Remove an upload; batches that were made of it stay as they are."""
    if _of_batch(file_id) is not None:
        raise RequestError(f"{file_id[:80]!r} belongs to its batch, and goes when that is purged")
    remove_upload(service.artifacts, caller.tenant_of_new(None), file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _uploaded(service: Service, caller: Caller, file_id: str) -> UploadRecord:
    return get_upload(service.artifacts, caller.tenant_of_new(None), file_id)


def _of_batch(file_id: str) -> tuple[str, str] | None:
    """Which of its files, and of which batch; None if this is none."""
    for kind in (OUTPUT, ERRORS):
        if file_id.startswith(kind):
            return kind, file_id.removeprefix(kind)
    return None


def _lines(service: Service, base: str, found: tuple[str, str]) -> Iterator[bytes]:
    kind, batch_id = found
    artifacts: Artifacts = service.artifacts
    return output_lines(service, base, batch_id) if kind == OUTPUT else error_lines(artifacts, batch_id)


def _shown(record: UploadRecord | Unreadable) -> FileObject:
    if isinstance(record, Unreadable):
        unknown: dict[str, Any] = {"bytes": 0, "created_at": 0, "filename": "", "purpose": ""}
        return FileObject(id=record.id, status="error", status_details=record.reason, **unknown)
    return FileObject(
        id=record.id,
        bytes=record.size_bytes,
        created_at=int(record.created_at.timestamp()),
        filename=record.filename,
        purpose=record.purpose,
    )
