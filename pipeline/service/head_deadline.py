"""A request's head must come whole in time: uvicorn itself waits for ever for the rest of a line."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0


class HeadDeadline(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; who has not sent a whole head after HEAD_S is answered 408 and hung up on.

    The time counts from the connection, and behind an answer from the first byte of the next request: that nothing
    comes at all there is uvicorn's own `timeout_keep_alive`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own has it
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        else:
            self._stop_waiting()

    def _wait_for_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._hang_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _hang_up(self) -> None:
        text = f"The head of a request did not come within {HEAD_S:g} seconds.".encode()
        headers = [("Connection", "close"), ("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]
        for event in (h11.Response(status_code=408, headers=headers), h11.Data(data=text), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
