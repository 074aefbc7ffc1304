"""Who asks, and what they may: tokens in headers, a page's session cookie, or a trusted proxy's header.

What a browser sends by itself, a cookie or a proxy's session, counts only for requests of our own pages, whatever its
SameSite does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Annotated
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import Depends, Request

from pipeline.deployment.settings import Settings
from pipeline.errors import RequestError, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.names import checked_id
from pipeline.records.tokens import EVERY_TENANT, Scope, parsed_token
from pipeline.service.context import Service, ServiceOf
from pipeline.service.refusals import Forbidden, TooManyRequests, Unauthorized

SESSION_COOKIE = "tessera_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOW = "one wanted in the header Authorization (scheme Bearer); `tessera token create` makes one"


@dataclass(frozen=True)
class Caller:
    """Who makes a request: a tenant, or an operator, who acts for every tenant."""

    name: str  # of the token, or of the header; for logs
    tenant: str
    scopes: frozenset[Scope]

    @property
    def operator(self) -> bool:
        """Whether this one sees the batches of every tenant."""
        return self.tenant == EVERY_TENANT

    def may_see(self, tenant: str) -> bool:
        """Whether this tenant's are theirs to see."""
        return self.operator or tenant == self.tenant

    def check_batch_tenant(self, batch_id: str, tenant: str) -> None:
        """Raise UnknownBatch if the batch is another tenant's: that it exists is not to be known."""
        if not self.may_see(tenant):
            raise UnknownBatch(batch_id)

    def tenant_of_new(self, wanted: str | None) -> str:
        """The tenant of what this one makes. Raises RequestError if another was named."""
        if self.operator:
            return checked_id(wanted or "default", "tenant")
        if wanted not in (None, self.tenant):
            raise RequestError(f"tenant {str(wanted)[:80]!r} found; this token is of tenant {self.tenant!r}")
        return self.tenant


def caller_of(request: Request, service: Service) -> Caller:
    """Who makes this request. Raises Unauthorized, TooManyRequests."""
    settings = service.settings
    header = request.headers.get("authorization", "")
    scheme, _, credentials = header.partition(" ")
    if header:
        if scheme.lower() != "bearer":
            raise Unauthorized(f"a header Authorization of scheme {scheme[:20]!r} found; Bearer wanted")
        return check_token(service.ledger, credentials.strip(), settings)
    if (cookie := request.cookies.get(SESSION_COOKIE)) is not None:
        check_origin(request)
        return check_token(service.ledger, cookie, settings)
    if (tenant := _trusted_tenant(request, settings)) is not None:
        check_origin(request)
        return Caller(tenant, checked_id(tenant, "tenant"), frozenset({Scope.READ, Scope.SUBMIT}))
    raise Unauthorized(f"no token found; {_HOW}")


def check_token(ledger: Ledger, text: str, settings: Settings) -> Caller:
    """Whose token this is. Raises Unauthorized, TooManyRequests."""
    parsed = parsed_token(text)
    use = ledger.tokens.use(parsed[0]) if parsed else None
    if parsed is None or use is None or not use.record.matches(parsed[1]) or use.record.expired(use.at):
        raise Unauthorized(f"the token is unknown, revoked or expired; {_HOW}")
    if use.this_minute > (most := settings.api_requests_per_minute):
        raise TooManyRequests(
            f"{use.this_minute:,} requests in this minute found; at most {most:,} of a token wanted "
            "(TESSERA_API_REQUESTS_PER_MINUTE): wait for the next",
            retry_after_s=60 - use.at.second,
        )
    return Caller(use.record.id, use.record.tenant, frozenset(use.record.scopes))


def _trusted_tenant(request: Request, settings: Settings) -> str | None:
    """The tenant that a proxy names that is believed; None if it names none, or is not believed."""
    if settings.api_trusted_header is None or request.client is None:
        return None
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return None
    if not any(address in ipaddress.ip_network(network) for network in settings.api_trusted_proxies):
        return None
    return request.headers.get(settings.api_trusted_header)


def check_origin(request: Request) -> None:
    """Raise Forbidden if a page of another origin asks for a change, with what the browser sends by itself."""
    if request.method in _SAFE:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    elsewhere = site not in (None, "same-origin", "none")
    if elsewhere or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise Forbidden("a request from a page of another origin found; a session counts for our own pages only")


async def _known_caller(request: Request, service: ServiceOf) -> Caller:
    """The caller, whom a route with a body has looked for already."""
    known: Caller | None = getattr(request.state, "caller", None)
    return await to_thread.run_sync(caller_of, request, service) if known is None else known


CallerOf = Annotated[Caller, Depends(_known_caller)]


@cache
def requiring(scope: Scope) -> Callable[[CallerOf], Awaitable[Caller]]:
    """A dependency that yields the caller if they have this scope. Raises Forbidden."""

    # What waits for nothing is async: FastAPI gives everything else a thread, which costs more than it does.
    async def check(caller: CallerOf) -> Caller:
        return check_scope(caller, scope)

    return check


def check_scope(caller: Caller, scope: Scope) -> Caller:
    """The caller themselves, if they have this scope. Raises Forbidden."""
    if not may(caller.scopes, scope):
        there = ", ".join(sorted(caller.scopes)) or "none"
        raise Forbidden(f"scope {scope.value!r} wanted; this token has {there}")
    return caller


def may(scopes: Collection[Scope], wanted: Scope) -> bool:
    """Whether these scopes allow it; admin allows everything."""
    return wanted in scopes or Scope.ADMIN in scopes


Reader = Annotated[Caller, Depends(requiring(Scope.READ))]
Submitter = Annotated[Caller, Depends(requiring(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(requiring(Scope.ADMIN))]
