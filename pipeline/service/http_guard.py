"""What holds for every request whatever it asks: headers of the answer, and how large and how slow a body may be."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service.refusals import Refusal, TooLarge, error_response

BODY_BYTES = 32 << 20
UPLOADS = frozenset({"/v1/files", "/api/files"})

# A body may take so long, and longer the more of it there is.
_PATIENCE_S, _SLOWEST_BYTES_S = 30.0, 4096

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data: https:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class TooSlow(Refusal):
    """The body does not come."""

    status = 408


class HttpGuard:
    """An ASGI middleware; what a route says of a header itself stands."""

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self._app, self._upload_bytes = app, upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        most = self._upload_bytes if scope["path"] in UPLOADS else BODY_BYTES
        try:
            _check_length(scope, most)
            await self._app(scope, _guarded(receive, most), send_guarded)
        except (TooLarge, TooSlow) as error:
            if begun:
                raise
            response = error_response(error)
            response.headers["Connection"] = "close"  # the rest of the body is not read
            await response(scope, receive, send_guarded)


def _check_length(scope: Scope, most: int) -> None:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > most:
        raise _too_large(int(length), most)


def _too_large(found: int, most: int) -> TooLarge:
    return TooLarge(f"a body of {found:,} bytes or more found; at most {most:,} wanted here")


def _guarded(receive: Receive, most: int) -> Receive:
    loop = asyncio.get_running_loop()
    began, size, whole = loop.time(), 0, False

    async def receive_guarded() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()  # until the client is gone, however long the answer takes
        left_s = began + _PATIENCE_S + size / _SLOWEST_BYTES_S - loop.time()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, left_s))
        except TimeoutError:
            raise TooSlow(
                f"{size:,} bytes of the body came in {loop.time() - began:.0f} s; at least {_SLOWEST_BYTES_S:,} "
                "bytes a second wanted"
            ) from None
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > most:
                raise _too_large(size, most)
        return message

    return receive_guarded
