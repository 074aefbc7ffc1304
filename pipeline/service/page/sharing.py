"""Links that show one batch, and nothing else, to whoever has them, for as long as they last.

The secret stands behind the # of the link, where no server, log or Referer has it; the page exchanges it for a cookie.
What is kept is its digest.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from pipeline.ledger.shares import Share
from pipeline.service.access import Submitter, check_origin
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import Service, ServiceOf
from pipeline.service.links import Base
from pipeline.service.own import own_batch
from pipeline.service.page.html import PageRoute, page
from pipeline.service.page.session import is_https
from pipeline.service.page.views import View, batch_views
from pipeline.service.refusals import NotFound

SHARE_COOKIE = "tessera_share"
_SECRET = re.compile(r"([0-9a-f]{12})_([A-Za-z0-9_-]{43})")

router = APIRouter(include_in_schema=False, route_class=PageRoute)
own_router = APIRouter(prefix="/api/batches/{batch_id}", tags=["batches"], route_class=CallerRoute)


@own_router.post("/share", status_code=201)
def share(
    service: ServiceOf,
    caller: Submitter,
    base: Base,
    batch_id: str,
    hours: Annotated[float, Query(gt=0, le=24 * 90, description="How long it works.")] = 24 * 7,
) -> dict[str, Any]:
    """A link that shows this batch to whoever has it, read-only."""
    own_batch(service, caller, batch_id)
    manifest = service.ledger.batches.get(batch_id).manifest
    share_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    life = timedelta(hours=hours)
    expires_at = service.ledger.now() + life
    made = Share(batch_id=batch_id, staged=manifest.staged, digest=_digest(secret), expires_at=expires_at)
    service.ledger.shares.add(share_id, made)
    return {"url": f"{base}/share#{share_id}_{secret}", "expires_at": expires_at.isoformat()}


@own_router.delete("/share", status_code=204)
def stop_sharing(service: ServiceOf, caller: Submitter, batch_id: str) -> None:
    """Links to this batch work no more."""
    own_batch(service, caller, batch_id)
    service.ledger.shares.remove_of(batch_id)


@router.get("/share")
def open_share() -> Response:
    """The page of a link: its script has what stands behind the #."""
    return page("opening.html", to="/share")


@router.post("/share")
def begin(request: Request, service: ServiceOf, secret: Annotated[str, Body(embed=True, max_length=100)]) -> Response:
    """Show the batch to this browser. Raises NotFound."""
    check_origin(request)
    found = _shared(service, secret)
    answer = JSONResponse({"to": f"/shared/{found.batch_id}"})
    answer.set_cookie(
        SHARE_COOKIE,
        secret,
        path="/shared/",
        httponly=True,
        samesite="strict",
        secure=is_https(request, service.settings.api_url),
    )
    return answer


def _view(request: Request, service: ServiceOf, batch_id: str) -> View:
    found = _shared(service, request.cookies.get(SHARE_COOKIE, ""))
    if found.batch_id != batch_id:
        raise NotFound("this link is to another batch")
    return View(service, service.client.batch(batch_id), f"/shared/{batch_id}", f"/shared/{batch_id}", None)


def _shared(service: Service, secret: str) -> Share:
    parsed = _SECRET.fullmatch(secret)
    found = service.ledger.shares.get(parsed[1]) if parsed else None
    if parsed is None or found is None or not hmac.compare_digest(found.digest, _digest(parsed[2])):
        raise NotFound("this link does not work, or no more; ask whoever sent it for a new one")
    if service.ledger.batches.get(found.batch_id).manifest.staged != found.staged:
        raise NotFound("the batch of this link was removed")
    return found


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


router.include_router(batch_views("/shared/{batch_id}", Depends(_view), files=True))
