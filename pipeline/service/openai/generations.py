"""`/v1/images/generations`: pictures of one prompt, now."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Body, Header

from pipeline.bucket import outcomes
from pipeline.client.batch import Batch
from pipeline.errors import RequestError
from pipeline.operations.submit import Submission, checked_options
from pipeline.records.batch import PRIORITIES
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageResult
from pipeline.service.access import Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.links import Base, image_url
from pipeline.service.openai.shapes import ImageObject, ImagesObject
from pipeline.service.refusals import NotRendered, StillRendering
from pipeline.service.submission import accepted, with_key

router = APIRouter(prefix="/v1/images", tags=["openai"], route_class=CallerRoute)

_LOOK_S = 0.25
_RESPONSE_FORMATS = ("b64_json", "url")
# Failures that are the request's own.
_THEIRS = frozenset({FailureCode.INVALID, FailureCode.PROMPT_TOO_LONG, FailureCode.UNSUPPORTED})


@router.post("/generations")
async def generate(
    service: ServiceOf,
    caller: Submitter,
    base: Base,
    body: Annotated[dict[str, Any], Body(description="prompt, n, size, model, and every field of a row.")],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> ImagesObject:
    """Render a prompt and wait for its `n` pictures, as a batch of one row that is served first.

    After `TESSERA_API_WAIT_S` the answer is an error of status 504 that names the batch, which goes on.
    """
    how = body.get("response_format") or "b64_json"
    if how not in _RESPONSE_FORMATS:
        raise RequestError(f"response_format {str(how)[:40]!r} found; {' or '.join(_RESPONSE_FORMATS)} wanted")
    if body.get("stream"):
        raise RequestError("stream found; pictures are not streamed here: /api/batches/<batch>/events tells of them")
    submission = with_key(
        Submission([body], checked_options({}), tenant=caller.tenant_of_new(None), priority=PRIORITIES[0]),
        idempotency_key,
    )
    found = await to_thread.run_sync(accepted, service, caller, submission)
    batch = service.client.batch(found.manifest.id)
    await _ended(service, batch)
    return await to_thread.run_sync(_answer, service, base, batch, how == "url")


async def _ended(service: Service, batch: Batch) -> None:
    """Wait for the batch's end, without keeping a thread. Raises StillRendering when the time is up."""
    deadline = time.monotonic() + service.settings.api_wait_s
    while not (await to_thread.run_sync(batch.status)).finished:
        if time.monotonic() > deadline:
            raise StillRendering(
                f"the pictures are not there after {service.settings.api_wait_s:g} s; batch {batch.id} goes on: look "
                f"at /api/batches/{batch.id}, or ask again with the same Idempotency-Key"
            )
        await anyio.sleep(_LOOK_S)


def _answer(service: Service, base: str, batch: Batch, as_url: bool) -> ImagesObject:  # of run_sync
    images = list(outcomes.results(service.artifacts, BatchObjects(batch.id)))
    status = batch.status()
    if len(images) < status.total:
        _raise_failure(batch)
    first = images[0]
    return ImagesObject(
        created=int(status.updated_at.timestamp()),
        data=[_picture(service, base, batch.id, image, as_url=as_url) for image in images],
        size=f"{first.width}x{first.height}",
        output_format=first.file.format.value,
        batch=batch.id,
    )


def _picture(service: Service, base: str, batch_id: str, image: ImageResult, *, as_url: bool) -> ImageObject:
    if as_url:
        return ImageObject(url=image_url(service, base, batch_id, image))
    return ImageObject(b64_json=base64.b64encode(outcomes.image_bytes(service.artifacts, image)).decode())


def _raise_failure(batch: Batch) -> None:
    for group in batch.failure_groups():
        message = f"{group.code.value}: {group.example.message}; what to do: {group.do} (batch {batch.id})"
        if group.code in _THEIRS:
            raise RequestError(message)
        raise NotRendered(message)
    status = batch.status()
    raise NotRendered(f"batch {batch.id} is {status.state.value}" + (f": {status.reason}" if status.reason else ""))
