"""What a caller does with a batch that is there: cancel, pause, unpause, retry, priority, purge."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from pipeline.service.access import Admin, Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.own import own_batch

router = APIRouter(prefix="/api/batches/{batch_id}", tags=["batches"], route_class=CallerRoute)


@router.post("/cancel")
def cancel(service: ServiceOf, caller: Submitter, batch_id: str) -> dict[str, Any]:
    """Cancel the images that are not rendered yet; committed images stay."""
    return {"batch": batch_id, "state": own_batch(service, caller, batch_id).cancel().value}


@router.post("/pause")
def pause(service: ServiceOf, caller: Submitter, batch_id: str) -> dict[str, Any]:
    """Pause it: images that are being rendered finish, then its GPUs are free."""
    return {"batch": batch_id, "state": own_batch(service, caller, batch_id).pause().value}


@router.post("/unpause")
def unpause(service: ServiceOf, caller: Submitter, batch_id: str) -> dict[str, Any]:
    """Continue it after `pause`."""
    return {"batch": batch_id, "state": own_batch(service, caller, batch_id).unpause().value}


class RetryWanted(BaseModel):
    """Which failures are rendered again."""

    model_config = ConfigDict(extra="forbid")

    codes: list[str] = Field([], description="Such as E_OOM; none: those that a retry may mend.")


@router.post("/retry")
def retry(service: ServiceOf, caller: Submitter, batch_id: str, wanted: RetryWanted | None = None) -> dict[str, Any]:
    """Render again the failed images of a batch that has ended."""
    retried = own_batch(service, caller, batch_id).retry(*(wanted.codes if wanted else ()))
    return {"batch": batch_id, "images": retried.images, "failed": retried.failed}


class PriorityWanted(BaseModel):
    """When a batch is served."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(description="0 first, 9 last.")


@router.post("/priority")
def prioritize(service: ServiceOf, caller: Submitter, batch_id: str, wanted: PriorityWanted) -> dict[str, Any]:
    """Have it served earlier or later; jobs that run go on."""
    own_batch(service, caller, batch_id).prioritize(wanted.priority)
    return {"batch": batch_id, "priority": wanted.priority}


class PurgeWanted(BaseModel):
    """What is removed."""

    model_config = ConfigDict(extra="forbid")

    keep_images: bool = False


@router.post("/purge")
def purge(service: ServiceOf, caller: Admin, batch_id: str, wanted: PurgeWanted | None = None) -> dict[str, Any]:
    """Remove an ended batch for good; its images stay if that is wanted."""
    own_batch(service, caller, batch_id).purge(keep_images=wanted is not None and wanted.keep_images)
    return {"batch": batch_id, "purge": "requested"}
