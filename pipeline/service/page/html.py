"""Pages from templates. Everything that is put into them is escaped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline.client.progress import duration
from pipeline.errors import TesseraError
from pipeline.process.redact import redacted
from pipeline.service.refusals import Unauthorized, error_body, error_response, status_of
from pipeline.version import installed_version


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("pipeline.service.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["duration"] = duration
    found.filters["moment"] = _moment
    found.globals["version"] = installed_version()
    return found


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def page(template: str, status: int = 200, **values: Any) -> Response:
    """The page of a template."""
    # With `no-referrer` a browser says that requests of our own pages come from the origin "null".
    headers = {"Referrer-Policy": "same-origin"}
    return HTMLResponse(_templates().get_template(template).render(**values), status, headers)


class PageRoute(APIRoute):
    """A route whose errors are pages: who has no session signs in first, an outage says that it is one."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler that FastAPI makes, with errors as pages."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except TesseraError as error:
                return _answer_to(error, request)

        return handle


def _answer_to(error: TesseraError, request: Request) -> Response:
    """Of what our script asks, as JSON, of everything else a page."""
    if "application/json" in request.headers.get("accept", ""):
        return error_response(error)
    if isinstance(error, Unauthorized):
        return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)
    answer, code = error_response(error), status_of(error)
    shown = page("error.html", code, message=redacted(error_body(error)["error"]["message"]), code=code)
    if wait_s := answer.headers.get("Retry-After"):
        shown.headers["Retry-After"] = wait_s
    return shown
