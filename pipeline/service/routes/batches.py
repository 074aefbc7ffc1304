"""Batches: listed, looked at, changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pipeline.operations.listing import BatchFilter, newest_batches
from pipeline.records.labels import parsed_labels
from pipeline.records.tokens import Scope
from pipeline.service.access import Caller, Reader, caller_of, check_scope
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.own import own_batch, own_status
from pipeline.states import BatchState

router = APIRouter(prefix="/api/batches", tags=["batches"], route_class=CallerRoute)


class BatchQuery(BaseModel):
    """Which batches are listed."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=1000)
    after: str | None = Field(None, description="The last batch of the page before.")
    state: list[BatchState] = []
    tenant: str | None = Field(None, description="For operators; everybody else sees their own.")
    schedule: str | None = None
    label: list[str] = Field([], description="NAME=VALUE")
    since: datetime | None = None
    until: datetime | None = None

    def wanted(self, caller: Caller) -> BatchFilter:
        """The filter of what this caller may see."""
        return BatchFilter(
            states=frozenset(self.state),
            tenant=self.tenant if caller.operator else caller.tenant,
            schedule=self.schedule,
            labels=parsed_labels(self.label),
            since=_utc(self.since),
            until=_utc(self.until),
        )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


@router.get("")
def list_batches(service: ServiceOf, caller: Reader, listing: Annotated[BatchQuery, Query()]) -> dict[str, Any]:
    """The newest batches, or the newest of those that the parameters name."""
    if listing.after is not None:
        own_batch(service, caller, listing.after)
    found = newest_batches(service.ledger, listing.limit + 1, listing.wanted(caller), after=listing.after)
    return {
        "data": [one.as_dict() for one in found[: listing.limit]],
        "has_more": len(found) > listing.limit,
        "ledger_doubt": service.client.doubt(),
    }


@router.get("/{batch_id}")
def get_batch(service: ServiceOf, caller: Reader, batch_id: str) -> dict[str, Any]:
    """Its status, its jobs under way with what they wait for, and why images failed."""
    batch = own_batch(service, caller, batch_id)
    seen, jobs = batch.status(), batch.jobs()
    groups = batch.failure_groups() if seen.failed else []
    return seen.as_dict() | {
        "under_way": [job.as_dict() for job in jobs],
        "failures": [group.as_dict() for group in groups],
        "ledger_doubt": service.client.doubt(),
    }


@router.get("/{batch_id}/status", response_model=dict[str, Any])
async def get_status(request: Request, service: ServiceOf, batch_id: str) -> Response:
    """Its status alone, which costs least."""

    def status() -> bytes:
        caller = check_scope(caller_of(request, service), Scope.READ)
        return json.dumps(own_status(service, caller, batch_id).as_dict()).encode()

    # Asked for most of all: one thread does it all, where a dependency and a route would each have another.
    return Response(await to_thread.run_sync(status), media_type="application/json")


@router.get("/{batch_id}/jobs")
def get_jobs(service: ServiceOf, caller: Reader, batch_id: str) -> dict[str, Any]:
    """Its jobs under way, at most 100, each with what it waits for and how its earlier attempts ended."""
    return {"data": [job.as_dict() for job in own_batch(service, caller, batch_id).jobs()]}
