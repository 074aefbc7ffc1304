"""The images of a batch: page by page, searched, and their files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response, StreamingResponse

from pipeline.bucket import outcomes
from pipeline.bucket.pages import results_from
from pipeline.client.batch import Batch
from pipeline.names import parsed_image_id
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageResult
from pipeline.service.access import Reader
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.links import Base, image_url, presigned
from pipeline.service.own import image_result, own_batch
from pipeline.service.streamed import WantedOf, begun, streamed

router = APIRouter(prefix="/api/batches/{batch_id}", tags=["images"], route_class=CallerRoute)

_IMMUTABLE = {"Cache-Control": "private, max-age=86400, immutable"}


class ImageQuery(BaseModel):
    """Which images are wanted."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000)
    after: str | None = Field(None, description="The last image id of the page before.")
    search: str = Field("", max_length=200, description="Text in custom_id, prompt or negative prompt, any case.")


@router.get("/images")
def list_images(
    service: ServiceOf, caller: Reader, base: Base, batch_id: str, query: Annotated[ImageQuery, Query()]
) -> dict[str, Any]:
    """The images that are there, in the order of the rows; also while the batch runs."""
    batch = own_batch(service, caller, batch_id)
    row, number = parsed_image_id(query.after) if query.after is not None else (0, -1)
    wanted = _wanted(service, batch, row, number, query.search.casefold())
    found = list(itertools.islice(wanted, query.limit + 1))
    data = [_shown(service, base, batch_id, image) for image in found[: query.limit]]
    return {"data": data, "has_more": len(found) > query.limit, "after": data[-1]["image_id"] if data else query.after}


def _wanted(service: Service, batch: Batch, row: int, number: int, text: str) -> Iterator[ImageResult]:
    if not text:
        return results_from(service.artifacts, BatchObjects(batch.id), row, number + 1)
    everything = outcomes.results(service.artifacts, BatchObjects(batch.id), lambda _: None)
    return (image for image in everything if (image.row, image.number) > (row, number) and _has(image, text))


def _has(image: ImageResult, text: str) -> bool:
    return any(text in (part or "").casefold() for part in (image.custom_id, image.prompt, image.negative_prompt))


@router.get("/failures")
def list_failures(
    service: ServiceOf, caller: Reader, batch_id: str, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> dict[str, Any]:
    """The images that failed, and why."""
    found: list[ImageFailure] = list(itertools.islice(own_batch(service, caller, batch_id).errors(), limit + 1))
    return {"data": [one.model_dump(mode="json") for one in found[:limit]], "has_more": len(found) > limit}


@router.get("/images/{image_id}")
def get_image(service: ServiceOf, caller: Reader, base: Base, batch_id: str, image_id: str) -> dict[str, Any]:
    """An image with all its settings."""
    own_batch(service, caller, batch_id)
    return _shown(service, base, batch_id, image_result(service, batch_id, image_id))


@router.get("/images/{image_id}/file")
def get_file(
    service: ServiceOf,
    caller: Reader,
    batch_id: str,
    image_id: str,
    wanted: WantedOf,
) -> Response:
    """Its file, or the part of it that Range names, or 304; or a redirection to the bucket, where links lead there."""
    own_batch(service, caller, batch_id)
    key = image_result(service, batch_id, image_id).key
    if service.settings.api_links == "presigned":
        return RedirectResponse(presigned(service, key), 307)
    return streamed(service.artifacts, key, wanted, _IMMUTABLE)


@router.get("/images/{image_id}/thumbnail")
def get_thumbnail(service: ServiceOf, caller: Reader, wanted: WantedOf, batch_id: str, image_id: str) -> Response:
    """The image small."""
    own_batch(service, caller, batch_id)
    row, number = parsed_image_id(image_id)
    return streamed(service.artifacts, BatchObjects(batch_id).thumbnail(row, number), wanted, _IMMUTABLE)


@router.get("/rows")
def list_rows(
    service: ServiceOf,
    caller: Reader,
    batch_id: str,
    first: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> StreamingResponse:
    """Its rows with everything decided, one a line, from row `first` on."""
    own_batch(service, caller, batch_id)
    manifest = service.ledger.batches.get(batch_id).manifest
    first = min(first, manifest.rows)  # which also is a number that islice can count to
    lines = service.artifacts.lines(BatchObjects(batch_id).input(manifest.staged))
    lines = itertools.islice(lines, first, first + limit)
    return begun((line + b"\n" for line in lines), "application/x-ndjson")


def _shown(service: Service, base: str, batch_id: str, image: ImageResult) -> dict[str, Any]:
    path = f"{base}/api/batches/{batch_id}/images/{image.image_id}"
    return image.model_dump(mode="json") | {
        "file_url": image_url(service, base, batch_id, image),
        "thumbnail_url": f"{path}/thumbnail",
    }
