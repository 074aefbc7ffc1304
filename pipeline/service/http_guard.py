"""What holds for every request whatever it asks: headers of the answer, and how large and how slow a body may be.

Who is refused before the body is read has the answer at once. What still comes is thrown away, so that a client that
sends first and then looks finds it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service.refusals import Refusal, TooLarge, error_response

BODY_BYTES = 32 << 20
UPLOADS = frozenset({"/v1/files", "/api/files"})

# What pages send comes without a token: one, or the secret of a link, is in it.
_API, _PAGE_BODY_BYTES = ("/api/", "/v1/"), 64 << 10

# A body may take so long, and longer the more of it there is.
_PATIENCE_S, _SLOWEST_BYTES_S = 30.0, 4096

# From here on an answer refuses what was asked, often before the body is read.
_REFUSED = 400

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
        body = _Body(scope, receive, self._most(scope["path"]))
        begun = unread = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun, unread
            if body.refusal is not None and not begun:
                return  # what a framework made of it
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if unread := message["status"] >= _REFUSED and body.comes:
                    headers["Connection"] = "close"
            elif unread and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.discard()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            body.check_length()
            await self._app(scope, body.receive, send_guarded)
        except (TooLarge, TooSlow):
            if begun:
                raise
        if body.refusal is not None and not begun:
            response = error_response(body.refusal)
            response.headers["Connection"] = "close"  # the rest of the body is not read
            body.refusal = None
            await response(scope, receive, send_guarded)

    def _most(self, path: str) -> int:
        """How large a body may be there."""
        if path in UPLOADS:
            return self._upload_bytes
        return BODY_BYTES if path.startswith(_API) else _PAGE_BODY_BYTES


class _Body:
    """The body of one request as it comes; `refusal` says why no more of it is read.

    `comes`: there is more of it, which nobody has read yet.
    """

    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        self.refusal: TooLarge | TooSlow | None = None
        self._receive, self._most = receive, most
        self._loop = asyncio.get_running_loop()
        self._began, self._size = self._loop.time(), 0
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self._length = int(length) if length.isdigit() else 0
        self.comes = self._length > 0 or b"transfer-encoding" in headers

    def check_length(self) -> None:
        """Raise TooLarge if it says by itself that it is."""
        if self._length > self._most:
            raise self._refuse(self._too_large(self._length))

    async def receive(self) -> Message:
        """The next of it. Raises TooLarge, TooSlow."""
        if not self.comes:
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
            self.comes = message.get("more_body", False)
            if self._size > self._most:
                raise self._refuse(self._too_large(self._size))
        return message

    async def discard(self) -> None:
        """Read the rest and keep none of it: who still sends does not look for the answer yet."""
        self._most = min(self._most, BODY_BYTES)
        with suppress(TooLarge, TooSlow):  # the answer has gone already
            while self.comes and (await self.receive())["type"] == "http.request":
                pass

    def _too_large(self, found: int) -> TooLarge:
        return TooLarge(f"a body of {found:,} bytes or more found; at most {self._most:,} wanted here")

    def _refuse(self, refusal: _R) -> _R:
        self.refusal, self.comes = refusal, False
        return refusal
