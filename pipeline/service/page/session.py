"""A browser's session: a token in a cookie that scripts cannot read and other sites cannot have sent."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Form, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from pipeline.operations.tokens import use_sign_in
from pipeline.service.access import SESSION_COOKIE, check_origin, check_token
from pipeline.service.context import Service, ServiceOf
from pipeline.service.page.html import PageRoute, page
from pipeline.service.refusals import NotFound, Unauthorized

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_LASTS_S = 30 * 24 * 3600


@router.get("/login")
def login_form(next: str = "/") -> Response:  # noqa: A002  # the name in the URL
    """Ask for a token."""
    return page("login.html", next=_own_path(next), problem="")


@router.post("/login")
def login(
    request: Request,
    service: ServiceOf,
    token: Annotated[str, Form(max_length=200)],
    next: Annotated[str, Form(max_length=2000)] = "/",  # noqa: A002
) -> Response:
    """Begin a session, if the token counts."""
    check_origin(request)
    try:
        check_token(service.ledger, token.strip(), service.settings)
    except Unauthorized as error:
        return page("login.html", 401, next=_own_path(next), problem=str(error))
    return _begin(RedirectResponse(_own_path(next), 303), token.strip(), request, service)


@router.get("/sign-in")
def open_link() -> Response:
    """The page of a link that begins a session: its script has what stands behind the #."""
    return page("opening.html", to="/sign-in")


@router.post("/sign-in")
def use_link(
    request: Request, service: ServiceOf, secret: Annotated[str, Body(embed=True, max_length=100)]
) -> Response:
    """Begin a session by a link of the local stack, which works once. Raises NotFound."""
    check_origin(request)
    # Elsewhere the API's Redis user may make no tokens.
    local = service.settings.launcher == "local"
    made = use_sign_in(service.ledger, secret, life=timedelta(seconds=_LASTS_S)) if local else None
    if made is None:
        raise NotFound("this link does not work, or no more; `tessera up` prints a new one")
    return _begin(JSONResponse({"to": "/"}), made.text, request, service)


def _begin(answer: Response, token: str, request: Request, service: Service) -> Response:
    answer.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=_LASTS_S,
        httponly=True,
        samesite="strict",
        secure=is_https(request, service.settings.api_url),
    )
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session of this browser; the token still counts elsewhere."""
    check_origin(request)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return answer


def is_https(request: Request, api_url: str | None) -> bool:
    """Whether browsers reach us over TLS: as asked, or by the address that the settings say."""
    return request.url.scheme == "https" or (api_url or "").startswith("https://")


def _own_path(path: str) -> str:
    """The path itself, unless a browser would take it for another site's."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"
