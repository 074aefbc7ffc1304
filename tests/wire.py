"""A TCP proxy that goes wrong on demand: towards Redis or S3, as soon as a pattern passes."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

# pass: all goes through · hang: half-open, nothing goes through any more and nobody says so · cut: connections end
Mode = Literal["pass", "hang", "cut"]


class Wire:
    """Forwards to a port of this machine; `seen` is how often the pattern passed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._mode: Mode = "pass"
        self._trigger: tuple[re.Pattern[bytes], Mode, bool] | None = None
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def wrong(self) -> bool:
        """Whether something does not go through now."""
        return self._mode != "pass"

    def turn(self, mode: Mode) -> None:
        """Go wrong, or right again, now."""
        with self._changed:
            self._mode = mode
            if mode == "cut":
                for one in self._open:
                    one.close()
                self._open.clear()
            self._changed.notify_all()

    def turn_at(self, pattern: bytes, mode: Mode, *, after: bool = False) -> None:
        """Go wrong when a client sends this; with `after` what it sent is still delivered, and no answer comes."""
        self._trigger = (re.compile(pattern), mode, after)

    def close(self) -> None:
        """End all of it."""
        self._listener.close()
        self.turn("cut")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                if self._mode == "cut":
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._open += [client, server]
            for source, sink, asks in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, asks), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if asks and self._trigger is not None and self._trigger[0].search(data):
                    _, mode, after = self._trigger
                    self._trigger = None
                    if after:
                        sink.sendall(data)
                        data = b""
                    self.turn(mode)
                with self._changed:
                    self._changed.wait_for(lambda: self._mode != "hang")
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            one.close()


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    """A proxy for the length of a `with` block."""
    one = Wire(port)
    try:
        yield one
    finally:
        one.close()
