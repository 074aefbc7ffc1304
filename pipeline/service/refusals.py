"""Errors as answers: an HTTP status, and one JSON shape for all of them, which OpenAI's clients read too.

{"error": {"message": ..., "type": ..., "code": "UnknownBatch", "param": null}}

`code` is the name of the error in pipeline/errors.py. One of a prompt set has `errors`, each with line, field and
message, and `total`. What an outage says of hosts and buckets is for the log; tenants get what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pipeline.errors import (
    AcceptanceUnknown,
    BatchExists,
    BatchLost,
    ConflictError,
    IllegalMove,
    LimitReached,
    PromptSetError,
    RecordUnreadable,
    RequestError,
    ServiceError,
    SettingsError,
    TesseraError,
    UnknownBatch,
    UnknownFile,
    UnknownSchedule,
    UnknownWebhook,
)
from pipeline.process.redact import redacted

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5


class Refusal(TesseraError):
    """A request that is answered with `status`, for a reason that only HTTP knows."""

    status = 400

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unauthorized(Refusal):
    """Nobody knows who asks."""

    status = 401


class Forbidden(Refusal):
    """Who asks is known, and may not."""

    status = 403


class NotFound(Refusal):
    """There is none of that name, or it is somebody else's."""

    status = 404


class TooLarge(Refusal):
    """More bytes than wanted."""

    status = 413


class Unsatisfiable(Refusal):
    """A part of a file that it does not have."""

    status = 416


class TooManyRequests(Refusal):
    """More requests than wanted."""

    status = 429


class NotRendered(Refusal):
    """The pictures that were asked for are not there; asking again renders them again."""

    status = 500


class StillRendering(Refusal):
    """The pictures that were asked for are not there yet."""

    status = 504


# The first that fits; a kind stands before those that it is one of.
_STATUSES: Mapping[type[TesseraError], int] = {
    UnknownBatch: 404,
    UnknownFile: 404,
    UnknownSchedule: 404,
    UnknownWebhook: 404,
    SettingsError: 409,
    BatchExists: 409,
    LimitReached: 429,
    RequestError: 400,
    PromptSetError: 422,
    ConflictError: 409,
    IllegalMove: 409,
    RecordUnreadable: 500,
    ServiceError: 503,
}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# Their messages name no host.
_SPEAKING = (AcceptanceUnknown, BatchLost, RecordUnreadable)


def status_of(error: TesseraError) -> int:
    """The HTTP status of this error."""
    if isinstance(error, Refusal):
        return error.status
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)


def error_body(error: TesseraError) -> dict[str, Any]:
    """What the answer to a request says of this error."""
    status = status_of(error)
    message = redacted(str(error))
    if status == 503 and not isinstance(error, _SPEAKING):
        message = (
            "a service behind this one (Redis or S3) cannot be used now; nothing was lost. Try again in "
            f"{RETRY_AFTER_S} s; whoever runs the deployment finds the reason in the log"
        )
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body: dict[str, Any] = {"message": message, "type": kind, "code": type(error).__name__, "param": None}
    if isinstance(error, PromptSetError):
        body["errors"] = [{"line": e.line, "field": e.field, "message": e.message} for e in error.errors]
        body["total"] = error.total
        body["source"] = error.source
    return {"error": body}


def error_response(error: TesseraError) -> Response:
    """The answer to a request that ends with this error."""
    status = status_of(error)
    headers = {}
    if status >= 500:
        log.warning("a request failed", error=type(error).__name__, reason=redacted(str(error)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    wait_s = getattr(error, "retry_after_s", None) or (RETRY_AFTER_S if status in (429, 503) else None)
    if isinstance(error, NotRendered | StillRendering):
        headers["X-Should-Retry"] = "false"  # OpenAI's clients would render it again by themselves
    if wait_s is not None:
        headers["Retry-After"] = str(wait_s)
    return JSONResponse(error_body(error), status, headers)


def add_to(app: FastAPI) -> None:
    """Have this app answer with our errors."""
    app.exception_handler(TesseraError)(_tessera_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(Exception)(_unexpected)


def _tessera_error(_request: Request, error: TesseraError) -> Response:
    return error_response(error)


def _http_error(_request: Request, error: HTTPException) -> Response:
    kind = _TYPES.get(error.status_code, "invalid_request_error")
    body = {"message": str(error.detail), "type": kind, "code": None, "param": None}
    return JSONResponse({"error": body}, error.status_code, error.headers)


def _invalid(_request: Request, error: RequestValidationError) -> Response:
    problems = [{"field": _field(one["loc"]), "message": one["msg"]} for one in error.errors()]
    message = "; ".join(f"{one['field']}: {one['message']}" for one in problems)
    body = {"message": message, "type": "invalid_request_error", "code": "RequestError"}
    return JSONResponse({"error": body | {"param": problems[0]["field"], "errors": problems}}, 422)


def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("a request failed unexpectedly", error=type(error).__name__, exc_info=error)
    body = {"message": "an error of ours; the log has it", "type": "server_error", "code": None, "param": None}
    return JSONResponse({"error": body}, 500)


def _field(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location[1:]) or str(location[0])
