"""`/v1/batches`: our batches in OpenAI's shape.

An invalid line does not stop the others: it is in the errors file, as a request that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Query

from pipeline.errors import RequestError
from pipeline.operations.listing import BatchFilter, newest_batches
from pipeline.operations.status import BatchStatus, batch_status
from pipeline.operations.submit import Submission, checked_options
from pipeline.operations.uploads import get_upload
from pipeline.records.batch import BatchManifest, BatchRequest
from pipeline.service.access import Reader, Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.openai.outputs import ERRORS, OUTPUT
from pipeline.service.openai.shapes import BatchObject, BatchPage, NewBatch, RequestCounts
from pipeline.service.own import own_batch
from pipeline.service.submission import accepted, kind_of_upload, url_of, with_key
from pipeline.states import BatchState, ImageState

router = APIRouter(prefix="/v1/batches", tags=["openai"], route_class=CallerRoute)

ENDPOINT = "/v1/images/generations"
_MOST_PAIRS, _NAME_CHARACTERS, _VALUE_CHARACTERS = 16, 64, 512

# OpenAI has no state for a batch that is paused: it is under way, and `tessera.state` says more.
STATES: Mapping[BatchState, str] = {
    BatchState.VALIDATING: "validating",
    BatchState.IN_PROGRESS: "in_progress",
    BatchState.PAUSED: "in_progress",
    BatchState.CANCELLING: "cancelling",
    BatchState.FINALIZING: "finalizing",
    BatchState.COMPLETED: "completed",
    BatchState.FAILED: "failed",
    BatchState.CANCELLED: "cancelled",
}
# When its state was reached, for the states that the record's last change dates.
_SINCE = {
    "in_progress": "in_progress_at",
    "finalizing": "finalizing_at",
    "completed": "completed_at",
    "failed": "failed_at",
    "cancelling": "cancelling_at",
    "cancelled": "cancelled_at",
}


@router.post("")
def create_batch(
    service: ServiceOf,
    caller: Submitter,
    wanted: NewBatch,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> BatchObject:
    """Submit an uploaded file of lines for /v1/images/generations. Rows that are invalid fail, the others run."""
    if wanted.endpoint != ENDPOINT:
        raise RequestError(f"endpoint {wanted.endpoint[:80]!r} found; {ENDPOINT!r} wanted")
    upload = get_upload(service.artifacts, caller.tenant_of_new(None), wanted.input_file_id)
    submission = Submission(
        prompts=url_of(service, upload),
        defaults=checked_options({}),
        tenant=upload.tenant,
        skip_invalid=True,
        input_format=kind_of_upload(upload),
        request=BatchRequest(
            input_file_id=upload.id,
            endpoint=ENDPOINT,
            completion_window=wanted.completion_window[:20],
            metadata=_checked(wanted.metadata or {}),
        ),
    )
    found = accepted(service, caller, with_key(submission, idempotency_key))
    return _shown(service, found.manifest.id)


@router.get("")
def list_batches(
    service: ServiceOf, caller: Reader, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> BatchPage:
    """Batches, newest first, however they were submitted."""
    if after is not None:
        own_batch(service, caller, after)
    mine = BatchFilter(tenant=None if caller.operator else caller.tenant)
    found = newest_batches(service.ledger, limit + 1, mine, after=after)
    data = [_object(service, one) for one in found[:limit] if isinstance(one, BatchStatus)]
    return BatchPage(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(found) > limit,
    )


@router.get("/{batch_id}")
def get_batch(service: ServiceOf, caller: Reader, batch_id: str) -> BatchObject:
    """One batch."""
    own_batch(service, caller, batch_id)
    return _shown(service, batch_id)


@router.post("/{batch_id}/cancel")
def cancel_batch(service: ServiceOf, caller: Submitter, batch_id: str) -> BatchObject:
    """Cancel what is not rendered yet."""
    own_batch(service, caller, batch_id).cancel()
    return _shown(service, batch_id)


def _checked(metadata: Mapping[str, str]) -> dict[str, str]:
    if len(metadata) > _MOST_PAIRS:
        raise RequestError(f"{len(metadata)} pairs of metadata found; at most {_MOST_PAIRS} wanted")
    for name, value in metadata.items():
        if len(name) > _NAME_CHARACTERS or len(value) > _VALUE_CHARACTERS:
            raise RequestError(
                f"metadata {name[:_NAME_CHARACTERS]!r}: names of at most {_NAME_CHARACTERS} characters and values of "
                f"at most {_VALUE_CHARACTERS} wanted"
            )
    return dict(metadata)


def _shown(service: Service, batch_id: str) -> BatchObject:
    return _object(service, batch_status(service.ledger, batch_id))


def _object(service: Service, seen: BatchStatus) -> BatchObject:
    manifest: BatchManifest = service.ledger.batches.get(seen.id).manifest
    request, status = manifest.request, STATES[seen.state]
    failed = seen.images[ImageState.FAILED] + seen.invalid_rows
    since = {_SINCE[status]: int(seen.updated_at.timestamp())} if status in _SINCE else {}
    return BatchObject(
        id=seen.id,
        endpoint=request.endpoint if request else ENDPOINT,
        input_file_id=request.input_file_id if request else "",
        completion_window=request.completion_window if request else "24h",
        metadata=request.metadata if request else dict(seen.labels),
        status=status,
        created_at=int(seen.created_at.timestamp()),
        output_file_id=f"{OUTPUT}{seen.id}" if seen.finished and seen.succeeded else None,
        error_file_id=f"{ERRORS}{seen.id}" if seen.finished and (failed or seen.cancelled) else None,
        request_counts=RequestCounts(total=seen.total + seen.invalid_rows, completed=seen.succeeded, failed=failed),
        tessera={
            "state": seen.state.value,
            "reason": seen.reason,
            "tenant": seen.tenant,
            "rows": manifest.rows,
            "images": manifest.images,
            "invalid_rows": manifest.invalid_rows,
            "cancelled": seen.cancelled,
        },
        **since,
    )
