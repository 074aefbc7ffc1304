"""Schedules: prompt sets that are rendered again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from pipeline.client.schedules import ScheduleStatus
from pipeline.errors import RequestError
from pipeline.operations.status import Unreadable
from pipeline.operations.uploads import get_upload
from pipeline.records.uploads import is_file_id, upload_files
from pipeline.service.access import Caller, Reader, Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.own import own_schedule
from pipeline.service.submission import kind_of_upload, url_of

router = APIRouter(prefix="/api/schedules", tags=["schedules"], route_class=CallerRoute)


class ScheduleBody(BaseModel):
    """A schedule as it is added; `spec` has the fields of docs/schedules.md."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any] = Field(description="cron, prompts (an uploaded file or an s3:// URL), tz, options, ...")
    update: bool = Field(False, description="Change one that is there.")
    paused: bool = False


@router.get("")
def list_schedules(service: ServiceOf, caller: Reader) -> dict[str, Any]:
    """All of the tenant's, by name."""
    found = service.client.schedules.list()
    mine = [
        _shown(one)
        for one in found
        if caller.operator or (isinstance(one, ScheduleStatus) and caller.may_see(one.record.spec.tenant))
    ]
    return {"data": mine}


@router.put("/{name}")
def add(service: ServiceOf, caller: Submitter, name: str, body: ScheduleBody) -> dict[str, Any]:
    """Add a schedule, or change one if that is said; adding the same again changes nothing."""
    standing = service.ledger.schedules.get(name)
    if standing is not None and not caller.may_see(standing.spec.tenant):
        raise RequestError(f"schedule {name!r}: the name is taken; choose another")
    spec = {**body.spec, "tenant": caller.tenant_of_new(body.spec.get("tenant"))}
    spec["prompts"] = _prompts(service, caller, spec)
    return _shown(service.client.schedules.add(name, update=body.update, paused=body.paused, **spec))


@router.get("/{name}")
def get(service: ServiceOf, caller: Reader, name: str) -> dict[str, Any]:
    """One schedule."""
    own_schedule(service, caller, name)
    return _shown(service.client.schedules.get(name))


@router.delete("/{name}", status_code=204)
def remove(service: ServiceOf, caller: Submitter, name: str) -> None:
    """Remove it and its history; its batches stay."""
    own_schedule(service, caller, name)
    service.client.schedules.remove(name)


@router.post("/{name}/pause")
def pause(service: ServiceOf, caller: Submitter, name: str) -> dict[str, Any]:
    """It fires no more."""
    own_schedule(service, caller, name)
    return _shown(service.client.schedules.pause(name))


@router.post("/{name}/resume")
def resume(service: ServiceOf, caller: Submitter, name: str) -> dict[str, Any]:
    """It fires again."""
    own_schedule(service, caller, name)
    return _shown(service.client.schedules.resume(name))


@router.post("/{name}/run")
def run(service: ServiceOf, caller: Submitter, name: str, *, everything: bool = False) -> dict[str, Any]:
    """Fire it once, now."""
    own_schedule(service, caller, name)
    return {"batch": service.client.schedules.run_now(name, everything=everything)}


@router.get("/{name}/history")
def history(
    service: ServiceOf, caller: Reader, name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> dict[str, Any]:
    """Its last firings, newest first."""
    own_schedule(service, caller, name)
    return {"data": [one.as_dict() for one in service.client.schedules.history(name, limit)]}


def _shown(one: ScheduleStatus | Unreadable) -> dict[str, Any]:
    more = {"record": one.record.model_dump(mode="json")} if isinstance(one, ScheduleStatus) else {}
    return one.as_dict() | more


def _prompts(service: Service, caller: Caller, spec: Mapping[str, Any]) -> str:
    """Where the prompts lie. Raises RequestError if they are not the tenant's to read.

    The controller reads them with its own rights, which open what is other tenants' in the deployment's own bucket.
    """
    prompts, tenant = str(spec.get("prompts", "")), spec["tenant"]
    if is_file_id(prompts):
        upload = get_upload(service.artifacts, tenant, prompts)
        kind_of_upload(upload)
        return url_of(service, upload)
    own = f"s3://{service.artifacts.bucket}/"
    theirs = (f"{service.artifacts.root}prompts/{tenant}/", f"{service.artifacts.root}{upload_files(tenant)}")
    if caller.operator or not prompts.startswith(own) or prompts.startswith(theirs):
        return prompts
    raise RequestError(
        f"prompts {prompts[:120]!r} found; the id of an uploaded file (POST /api/files), a key below {theirs[0]}, or "
        "one in a bucket of the tenant's own wanted"
    )
