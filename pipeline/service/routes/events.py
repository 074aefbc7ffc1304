"""Live events of a batch (server-sent events)."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Request
from starlette.responses import StreamingResponse

from pipeline.service.access import Reader
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.feed import Feeds
from pipeline.service.own import own_batch

router = APIRouter(prefix="/api/batches/{batch_id}", tags=["batches"], route_class=CallerRoute)


@router.get("/events")
async def events(
    request: Request,
    service: ServiceOf,
    caller: Reader,
    batch_id: str,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """What happens to a batch, as it happens, until it is finished; goes on behind Last-Event-ID."""
    await to_thread.run_sync(own_batch, service, caller, batch_id)
    feeds: Feeds = request.app.state.feeds
    feeds.check_room()
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(feeds.follow(batch_id, last_event_id), headers=headers, media_type="text/event-stream")
