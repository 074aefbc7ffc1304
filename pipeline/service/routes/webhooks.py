"""Webhooks of a tenant and of a batch: listed, added, removed; deliveries listed and sent again (docs/webhooks.md)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from pipeline.operations import webhooks
from pipeline.operations.webhooks import DeliveryFilter, delivery_as_dict, endpoint_as_dict
from pipeline.records.webhooks import DeliveryState, shown_url
from pipeline.service.access import Caller, Reader, Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.own import own_batch

router = APIRouter(prefix="/api/webhooks", tags=["webhooks"], route_class=CallerRoute)
of_batch = APIRouter(prefix="/api/batches/{batch_id}/webhooks", tags=["webhooks"], route_class=CallerRoute)

OfTenant = Annotated[str | None, Query(description="For operators; everybody else sees their own.")]


class NewOfBatch(BaseModel):
    """A URL that is sent the events of one batch."""

    model_config = ConfigDict(extra="forbid")

    url: str
    events: list[str] = Field([], description="accepted, progress, completed, failed, cancelled; none means all.")


class New(NewOfBatch):
    """A URL that is sent the events of all batches of a tenant, or of one."""

    tenant: str | None = Field(None, description="For operators; everybody else adds their own.")
    batch: str | None = Field(None, description="Of this batch only.")


@router.get("")
def list_endpoints(
    service: ServiceOf, caller: Reader, tenant: OfTenant = None, batch: str | None = None
) -> dict[str, Any]:
    """Those of the tenant and of single batches, oldest first; of a URL its host only."""
    if batch is not None:
        own_batch(service, caller, batch)
    whose = tenant if caller.operator else caller.tenant
    found = service.client.webhooks.list(whose, batch_id=batch)
    return {"data": [endpoint_as_dict(one) for one in found]}


@router.post("", status_code=201)
def add(service: ServiceOf, caller: Submitter, body: New) -> dict[str, Any]:
    """Have events sent to a URL."""
    if body.batch is not None:
        return _added(service, caller, body.batch, body)
    tenant = caller.tenant_of_new(body.tenant)
    return endpoint_as_dict(service.client.webhooks.add(body.url, tenant=tenant, events=body.events))


@router.delete("/{webhook_id}", status_code=204)
def remove(service: ServiceOf, caller: Submitter, webhook_id: str) -> None:
    """Send nothing there any more; what is on its way is still delivered."""
    webhooks.remove_endpoint(service.ledger, webhook_id, tenant=_whose(caller))


@router.get("/secret")
def secret(service: ServiceOf, caller: Submitter, tenant: OfTenant = None) -> dict[str, Any]:
    """What a receiver checks signatures with, the newest first."""
    whose = caller.tenant_of_new(tenant)
    return {"tenant": whose, "secrets": list(service.client.webhooks.secrets(whose))}


class DeliveryQuery(BaseModel):
    """Which deliveries are listed."""

    model_config = ConfigDict(extra="forbid")

    batch: str | None = None
    tenant: str | None = Field(None, description="For operators; everybody else sees their own.")
    state: DeliveryState | None = None
    limit: int = Field(50, ge=1, le=1000)


@router.get("/deliveries")
def deliveries(service: ServiceOf, caller: Reader, query: Annotated[DeliveryQuery, Query()]) -> dict[str, Any]:
    """The newest of the last seven days."""
    wanted = DeliveryFilter(query.batch, query.tenant if caller.operator else caller.tenant, query.state)
    return {"data": [delivery_as_dict(one) for one in webhooks.deliveries(service.ledger, wanted, query.limit)]}


@router.post("/deliveries/{delivery_id}/resend")
def resend(service: ServiceOf, caller: Submitter, delivery_id: str) -> dict[str, Any]:
    """Send one once more, now, with the id that it had."""
    return delivery_as_dict(webhooks.resend(service.ledger, delivery_id, tenant=_whose(caller)))


@of_batch.get("")
def list_of_batch(service: ServiceOf, caller: Reader, batch_id: str) -> dict[str, Any]:
    """Who is sent the events of this batch: those it was submitted with, and those added since."""
    own_batch(service, caller, batch_id)
    manifest = service.ledger.batches.get(batch_id).manifest
    submitted = [
        {"id": None, "tenant": manifest.tenant, "batch": batch_id, "to": shown_url(one.url), "events": list(one.events)}
        for one in manifest.webhooks
    ]
    added = service.client.webhooks.list(manifest.tenant, batch_id=batch_id)
    return {"data": [*submitted, *(endpoint_as_dict(one) for one in added)]}


@of_batch.post("", status_code=201)
def add_to_batch(service: ServiceOf, caller: Submitter, batch_id: str, body: NewOfBatch) -> dict[str, Any]:
    """Have the events of this batch sent to a URL from now on."""
    return _added(service, caller, batch_id, body)


@of_batch.delete("/{webhook_id}", status_code=204)
def remove_of_batch(service: ServiceOf, caller: Submitter, batch_id: str, webhook_id: str) -> None:
    """Send nothing there any more; one that it was submitted with stays."""
    own_batch(service, caller, batch_id)
    webhooks.remove_endpoint(service.ledger, webhook_id, tenant=_whose(caller), batch_id=batch_id)


def _added(service: Service, caller: Caller, batch_id: str, body: NewOfBatch) -> dict[str, Any]:
    own_batch(service, caller, batch_id)
    return endpoint_as_dict(service.client.webhooks.add(body.url, batch_id=batch_id, events=body.events))


def _whose(caller: Caller) -> str | None:
    return None if caller.operator else caller.tenant
