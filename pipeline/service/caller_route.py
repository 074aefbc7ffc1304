"""Routes that know who asks, and that they may, before the first byte of a body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from pipeline.records.tokens import Scope
from pipeline.service.access import Caller, caller_of, check_scope, requiring


class CallerRoute(APIRoute):
    """A route of the API. FastAPI by itself reads and parses a body before it asks who sent it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, behind a look at the caller where there is a body."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler
        # Each names the scope that it wants as a parameter; one that does not is a mistake of ours.
        calls = {one.call for one in self.dependant.dependencies}
        (wanted,) = (scope for scope in Scope if requiring(scope) in calls)

        async def handle(request: Request) -> Response:
            request.state.caller = await to_thread.run_sync(_admitted, request, wanted)
            return await handler(request)

        return handle


def _admitted(request: Request, wanted: Scope) -> Caller:
    return check_scope(caller_of(request, request.app.state.service), wanted)
