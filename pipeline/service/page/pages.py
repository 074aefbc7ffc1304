"""The pages of a session: batches, one batch, submit, schedules, who works on what."""

from __future__ import annotations

import itertools
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from pipeline.client.schedules import ScheduleStatus
from pipeline.deployment.tenants import limits_of
from pipeline.errors import RecordUnreadable, UnknownBatch
from pipeline.operations.listing import BatchFilter
from pipeline.operations.status import BatchStatus
from pipeline.records.schedules.cron import times
from pipeline.records.tokens import Scope
from pipeline.service.access import Caller, Reader, may
from pipeline.service.context import Service, ServiceOf
from pipeline.service.own import own_batch
from pipeline.service.page.html import PageRoute, page
from pipeline.service.page.views import View, batch_views
from pipeline.service.refusals import NotFound
from pipeline.states import ImageState

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_BATCHES_SHOWN, _JOBS_OF_BATCHES, _FIRINGS_SHOWN = 50, 50, 6
_STATIC = {
    "app.css": "text/css",
    **dict.fromkeys(("app.js", "grid.js", "submit.js"), "text/javascript"),
    "icon.svg": "image/svg+xml",
}


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Style, script and icon."""
    if name not in _STATIC:
        raise NotFound("there is no such file")
    body = (files("pipeline.service.page") / "static" / name).read_bytes()
    return Response(body, media_type=_STATIC[name], headers={"Cache-Control": "public, max-age=300"})


@router.get("/")
def batches(service: ServiceOf, caller: Reader) -> Response:
    """The newest batches."""
    return page("batches.html", **_batches(service, caller))


@router.get("/live/batches")
def live_batches(service: ServiceOf, caller: Reader) -> Response:
    """The same as it is now, without the frame."""
    return page("_batches.html", **_batches(service, caller))


@router.get("/submit")
def submit(service: ServiceOf, caller: Reader) -> Response:
    """A form for prompts, or a place to drop a file."""
    deployment = service.ledger.deployment()
    nets = sorted(name for name, one in deployment.controlnets.items() if one.refusal is None)
    shown: dict[str, Any] = {"models": sorted(deployment.models), "default": deployment.default_model}
    return page("submit.html", **_frame(caller, "submit"), **shown, controlnets=nets)


@router.get("/schedules")
def schedules(service: ServiceOf, caller: Reader) -> Response:
    """Schedules, their last and their next firings."""
    shown = []
    for one in service.client.schedules.list():
        if isinstance(one, ScheduleStatus) and caller.may_see(one.record.spec.tenant):
            history = service.client.schedules.history(one.record.name, _FIRINGS_SHOWN)
            shown.append({"status": one, "history": history, "next": _next_firings(one)})
    return page("schedules.html", **_frame(caller, "schedules"), schedules=shown)


@router.get("/workers")
def workers(service: ServiceOf, caller: Reader) -> Response:
    """Pods and workers now, and what tenants use."""
    return page("workers.html", **_workers(service, caller))


@router.get("/live/workers")
def live_workers(service: ServiceOf, caller: Reader) -> Response:
    """The same as it is now, without the frame."""
    return page("_workers.html", **_workers(service, caller))


def _view(service: ServiceOf, caller: Reader, batch_id: str) -> View:
    batch = own_batch(service, caller, batch_id)
    return View(service, batch, f"/batches/{batch_id}", f"/api/batches/{batch_id}", caller)


router.include_router(batch_views("/batches/{batch_id}", Depends(_view), files=False))


def _frame(caller: Caller, here: str) -> dict[str, Any]:
    return {"caller": caller, "may_submit": may(caller.scopes, Scope.SUBMIT), "here": here}


def _batches(service: Service, caller: Caller) -> dict[str, Any]:
    wanted = BatchFilter(tenant=None if caller.operator else caller.tenant)
    found = service.client.batches(_BATCHES_SHOWN, wanted)
    shown = [one for one in found if isinstance(one, BatchStatus)]
    return {**_frame(caller, "batches"), "batches": shown, "doubt": service.client.doubt()}


def _workers(service: Service, caller: Caller) -> dict[str, Any]:
    jobs: list[Any] = []
    use: dict[str, dict[str, int]] = {}
    deployment = service.ledger.deployment()
    for batch_id in service.ledger.batches.unfinished():
        try:
            manifest = service.ledger.batches.get(batch_id).manifest
            if not caller.may_see(manifest.tenant):
                continue
            counts = service.ledger.batches.counts(batch_id)
            if len(jobs) < _JOBS_OF_BATCHES:
                jobs += service.client.batch(batch_id).jobs()
        except (UnknownBatch, RecordUnreadable):
            continue
        mine = use.setdefault(manifest.tenant, {"batches": 0, "queued": 0, "running": 0})
        mine["batches"] += 1
        mine["queued"] += counts.images[ImageState.QUEUED]
        mine["running"] += counts.images[ImageState.RUNNING]
    if not caller.operator:
        use.setdefault(caller.tenant, {"batches": 0, "queued": 0, "running": 0})
    limits = {tenant: limits_of(deployment.tenants, tenant) for tenant in use}
    return {
        **_frame(caller, "workers"),
        "workers": service.client.workers(),
        "jobs": jobs[:_JOBS_OF_BATCHES],
        "use": dict(sorted(use.items())),
        "limits": limits,
    }


def _next_firings(one: ScheduleStatus) -> list[Any]:
    record = one.record
    return (
        []
        if record.next_at is None
        else [
            record.next_at,
            *itertools.islice(times(record.spec.cron, record.spec.tz, record.next_at), _FIRINGS_SHOWN - 1),
        ]
    )
