"""What holds for every request whatever it asks: headers of the answer, and how large and how slow a body may be."""

from __future__ import annotations

import asyncio
from typing import TypeVar

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


_R = TypeVar("_R", TooLarge, TooSlow)


class HttpGuard:
    """An ASGI middleware; what a route says of a header itself stands."""

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self._app, self._upload_bytes = app, upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._upload_bytes if scope["path"] in UPLOADS else BODY_BYTES)
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if body.refusal is not None and not begun:
                return  # what a framework made of it
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            body.check_length(scope)
            await self._app(scope, body.receive, send_guarded)
        except (TooLarge, TooSlow):
            if begun:
                raise
        if body.refusal is not None and not begun:
            response = error_response(body.refusal)
            response.headers["Connection"] = "close"  # the rest of the body is not read
            body.refusal = None
            await response(scope, receive, send_guarded)


class _Body:
    """The body of one request as it comes; `refusal` says why no more of it is read."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.refusal: TooLarge | TooSlow | None = None
        self._receive, self._most = receive, most
        self._loop = asyncio.get_running_loop()
        self._began, self._size, self._whole = self._loop.time(), 0, False

    def check_length(self, scope: Scope) -> None:
        """Raise TooLarge if it says by itself that it is."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            raise self._refuse(self._too_large(int(length)))

    async def receive(self) -> Message:
        """The next of it. Raises TooLarge, TooSlow."""
        if self._whole:
            return await self._receive()  # until the client is gone, however long the answer takes
        left_s = self._began + _PATIENCE_S + self._size / _SLOWEST_BYTES_S - self._loop.time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left_s))
        except TimeoutError:
            raise self._refuse(
                TooSlow(
                    f"{self._size:,} bytes of the body came in {self._loop.time() - self._began:.0f} s; at least "
                    f"{_SLOWEST_BYTES_S:,} bytes a second wanted"
                )
            ) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size > self._most:
                raise self._refuse(self._too_large(self._size))
        return message

    def _too_large(self, found: int) -> TooLarge:
        return TooLarge(f"a body of {found:,} bytes or more found; at most {self._most:,} wanted here")

    def _refuse(self, refusal: _R) -> _R:
        self.refusal = refusal
        return refusal
