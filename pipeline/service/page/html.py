"""Pages from templates. Everything that is put into them is escaped."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline.client.progress import duration
from pipeline.errors import TesseraError
from pipeline.service.refusals import Unauthorized, error_response
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
    return _as_page(error_response(error))


def add_to(app: FastAPI) -> None:
    """Have a browser shown a page where there is none of that address, or a form lacks something."""
    for kind in (HTTPException, RequestValidationError):
        app.exception_handler(kind)(_for_browsers(app.exception_handlers[kind]))


def _for_browsers(answer_to: Callable[[Request, Any], Any]) -> Callable[[Request, Any], Response]:
    def answer(request: Request, error: Any) -> Response:
        found: Response = answer_to(request, error)
        of_api = request.url.path.startswith(("/api/", "/v1/"))
        return found if of_api or "text/html" not in request.headers.get("accept", "") else _as_page(found)

    return answer


def _as_page(answer: Response) -> Response:
    """What an answer with an error says, as a page."""
    code = answer.status_code
    shown = page("error.html", code, message=json.loads(bytes(answer.body))["error"]["message"], code=code)
    for name in ("Retry-After", "Allow"):
        if value := answer.headers.get(name):
            shown.headers[name] = value
    return shown
