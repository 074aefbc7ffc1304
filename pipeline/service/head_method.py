"""HEAD, wherever there is GET: the same answer without its body."""

from __future__ import annotations

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _HeadSent(Exception):
    """All that was asked for is sent: nothing more of the answer is to be made."""


class HeadMethod:
    """An ASGI middleware: a route is asked for GET, and left when it has said what its answer will be."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                await send({"type": "http.response.body"})
                raise _HeadSent

        with suppress(_HeadSent):
            await self._app({**scope, "method": "GET"}, receive, send_head)
