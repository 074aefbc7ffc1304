"""The views of one batch, whole or shared: its page, its state as it changes, its tiles, one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from pipeline.client.batch import Batch
from pipeline.names import parsed_image_id
from pipeline.outputs.extract import row_of
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.records.tokens import Scope
from pipeline.service.access import Caller, may
from pipeline.service.context import Service
from pipeline.service.own import image_result
from pipeline.service.page.html import PageRoute, page
from pipeline.service.page.tiles import MOST, found_tiles, tiles
from pipeline.service.refusals import NotFound
from pipeline.service.streamed import WantedOf, streamed
from pipeline.states import BatchState, ImageState


@dataclass(frozen=True)
class View:
    """A batch as somebody sees it, with the paths of its pages and of its images' files; nobody's if it is shared."""

    service: Service
    batch: Batch
    path: str
    files: str
    caller: Caller | None

    @property
    def may_change(self) -> bool:
        return self.caller is not None and may(self.caller.scopes, Scope.SUBMIT)


def batch_views(path: str, view_of: Any, *, files: bool) -> APIRouter:
    """Routes below `path`; `view_of` is the dependency that says who sees which batch, and raises for all others."""
    router = APIRouter(prefix=path, include_in_schema=False, route_class=PageRoute)

    @router.get("")
    def show(view: View = view_of) -> Response:
        return page("batch.html", **_state(view))

    @router.get("/live")
    def live(view: View = view_of) -> Response:
        return page("_batch.html", **_state(view))

    @router.get("/tiles")
    def list_tiles(
        view: View = view_of, first: Annotated[int, Query(ge=0)] = 0, count: Annotated[int, Query(ge=1, le=MOST)] = MOST
    ) -> dict[str, Any]:
        service = view.service
        manifest = service.ledger.batches.get(view.batch.id).manifest
        return {"first": first, "tiles": tiles(service.ledger, service.artifacts, manifest, first, count)}

    @router.get("/tiles/found")
    def find_tiles(
        view: View = view_of,
        search: Annotated[str, Query(max_length=200)] = "",
        state: ImageState | None = None,
    ) -> dict[str, Any]:
        service = view.service
        manifest = service.ledger.batches.get(view.batch.id).manifest
        found = found_tiles(service.ledger, service.artifacts, manifest, search, state)
        return {"tiles": found[:MOST], "more": len(found) > MOST}

    @router.get("/images/{image_id}/input")
    def show_input(image_id: str, wanted: WantedOf, view: View = view_of) -> Response:
        begins_with = image_result(view.service, view.batch.id, image_id).image
        if begins_with is None:
            raise NotFound("this image begins with noise")
        key = BatchObjects(view.batch.id).input_picture(begins_with.sha256)
        return streamed(view.service.artifacts, key, wanted, {})

    @router.get("/images/{image_id}")
    def show_picture(image_id: str, view: View = view_of) -> Response:
        result = image_result(view.service, view.batch.id, image_id)
        return page("picture.html", view=view, **_picture(result))

    if files:

        @router.get("/images/{image_id}/thumbnail")
        def thumbnail(image_id: str, wanted: WantedOf, view: View = view_of) -> Response:
            key = BatchObjects(view.batch.id).thumbnail(*parsed_image_id(image_id))
            return streamed(view.service.artifacts, key, wanted, {})

        @router.get("/images/{image_id}/file")
        def file(image_id: str, wanted: WantedOf, view: View = view_of) -> Response:
            key = image_result(view.service, view.batch.id, image_id).key
            return streamed(view.service.artifacts, key, wanted, {})

    return router


def _state(view: View) -> dict[str, Any]:
    seen = view.batch.status()
    states = BatchState
    return {
        "view": view,
        "seen": seen,
        "jobs": view.batch.jobs() if not seen.finished else [],
        "failures": view.batch.failure_groups() if seen.failed else [],
        "can": {
            "cancel": seen.state in (states.VALIDATING, states.IN_PROGRESS, states.PAUSED),
            "pause": seen.state in (states.VALIDATING, states.IN_PROGRESS),
            "unpause": seen.state is states.PAUSED,
            "retry": seen.finished and seen.state is not states.FAILED and seen.succeeded < seen.total,
        },
    }


def _picture(result: ImageResult) -> dict[str, Any]:
    row = row_of(result)
    shown = {
        name: value
        for name, value in row.items()
        if value not in (None, [], {}, "") and name not in ("prompt", "negative_prompt", "width", "height", "custom_id")
    }
    shown |= {"model": result.model, "size": f"{result.width} x {result.height}", "seed": result.seed}
    made = {
        "seconds": f"{result.seconds:.1f}",
        "model revision": result.provenance.model_revision,
        **({"sampler": result.provenance.sampler} if result.provenance.sampler else {}),
        "attempt": result.provenance.attempt,
        "file": f"{result.size_bytes:,} bytes",
        "SHA-256": result.sha256,
    }
    return {"image": result, "row": row, "settings": shown, "made": made}
