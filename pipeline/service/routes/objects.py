"""The files of a batch as the bucket has them, for clients that download: images, thumbnails, results, gallery."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from pipeline.records.object_keys import BatchObjects
from pipeline.service.access import Reader
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.own import own_batch
from pipeline.service.refusals import NotFound
from pipeline.service.streamed import WantedOf, begun, streamed

router = APIRouter(prefix="/api/batches/{batch_id}/objects", tags=["files"], route_class=CallerRoute)

_DEEPEST = 4


@router.get("")
def list_objects(service: ServiceOf, caller: Reader, batch_id: str, folder: str = "") -> StreamingResponse:
    """Keys below one of its folders, relative to the batch, each with its size; one JSON object a line, in order."""
    own_batch(service, caller, batch_id)
    root = BatchObjects(batch_id).root
    key = _checked(batch_id, folder)
    found = service.artifacts.sizes(key if key.endswith("/") else f"{key}/")

    def lines() -> Iterator[bytes]:
        for key, size_bytes in found:
            yield json.dumps({"key": key.removeprefix(root), "size_bytes": size_bytes}).encode() + b"\n"

    return begun(lines(), "application/x-ndjson")


@router.get("/{name:path}")
def get_object(
    service: ServiceOf,
    caller: Reader,
    batch_id: str,
    name: str,
    wanted: WantedOf,
) -> Response:
    """One of them, or the part of it that Range names, or 304."""
    own_batch(service, caller, batch_id)
    return streamed(service.artifacts, _checked(batch_id, name), wanted, {})


def _checked(batch_id: str, name: str) -> str:
    """The key of a file or a folder that users look at. Raises NotFound: of all else nobody needs to know."""
    objects = BatchObjects(batch_id)
    key, parts = objects.root + name, name.split("/")
    seen = any(key == one or (one.endswith("/") and key.startswith(one)) for one in _open_to_users(objects))
    if not seen or len(parts) > _DEEPEST or any(part in (".", "..") for part in parts):
        raise NotFound(f"{name[:80]!r} of batch {batch_id!r} is not there, or not yet")
    return key


def _open_to_users(objects: BatchObjects) -> tuple[str, ...]:
    return (*objects.user_files, f"{objects.root}failures/", objects.traces)
