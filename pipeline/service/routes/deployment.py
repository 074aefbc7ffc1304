"""The deployment: who asks, what is rendered, workers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from pipeline.names import LAST
from pipeline.operations.batch_ids import SEARCHED, full_id, meant
from pipeline.operations.listing import BatchFilter, newest_batches
from pipeline.service.access import Admin, CallerOf, Reader
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.own import own_batch
from pipeline.version import installed_version

router = APIRouter(prefix="/api", tags=["deployment"], route_class=CallerRoute)


@router.get("/whoami")
def whoami(caller: CallerOf) -> dict[str, Any]:
    """The tenant and the scopes of the token."""
    return {"tenant": caller.tenant, "scopes": sorted(caller.scopes), "operator": caller.operator}


@router.get("/deployment")
def deployment(service: ServiceOf, _caller: Reader) -> dict[str, Any]:
    """What is rendered here, and with which limits; as the controller announced it."""
    found = service.ledger.deployment().model_dump(mode="json", exclude={"tenants", "image", "prompt_buckets"})
    most_bytes = service.settings.api_upload_megabytes << 20
    return found | {"api_version": installed_version(), "upload_bytes": most_bytes}


@router.get("/workers")
def workers(service: ServiceOf, _caller: Admin) -> dict[str, Any]:
    """The render workers that are alive."""
    return {
        "data": [
            {"worker": one.name, "free": one.free, "jobs": one.jobs, "drain": one.drain and one.drain.value}
            for one in service.client.workers()
        ]
    }


@router.get("/batch-id/{named}")
def batch_id(service: ServiceOf, caller: Reader, named: str) -> dict[str, str]:
    """The id of the batch that is meant by its beginning, or by `last`. Raises UnknownBatch."""
    if caller.operator:
        found = full_id(service.ledger, named)
    else:
        mine = newest_batches(service.ledger, 1 if named == LAST else SEARCHED, BatchFilter(tenant=caller.tenant))
        found = meant(named, [one.id for one in mine])
    own_batch(service, caller, found)
    return {"id": found}
