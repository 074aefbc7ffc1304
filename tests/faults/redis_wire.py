"""A wire to Redis that can be cut, go silent without a word (half open), or stop at one exact request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Stop:
    """Where a process is held: at the first request that contains all of `words`.

    `before`: Redis does not get to see the request. Otherwise it has done what was asked, and its answer is held.
    """

    words: tuple[bytes, ...]
    before: bool
    taken: bool = False
    reached: threading.Event = field(default_factory=threading.Event)


class RedisWire:
    """Passes bytes on between any number of clients and one Redis."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._stops: list[Stop] = []
        self._closed = False
        threading.Thread(target=self._accept, name="redis-wire", daemon=True).start()

    def cut(self) -> None:
        """End every connection that there is."""
        for link in self._all():
            link.close()

    def go_silent(self) -> None:
        """Every connection that there is stays open and carries nothing any more: half open, as when a router forgets.

        New ones work.
        """
        for link in self._all():
            link.silent.set()

    @contextmanager
    def stopping(self, *words: bytes, before: bool = False) -> Iterator[Stop]:
        """The first process that sends such a request while this holds is held there, until it is killed."""
        stop = Stop(words, before)
        with self._lock:
            self._stops.append(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._stops.remove(stop)

    def stop_for(self, request: bytes) -> Stop | None:
        with self._lock:
            for stop in self._stops:
                if not stop.taken and all(word in request for word in stop.words):
                    stop.taken = True
                    return stop
        return None

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def _all(self) -> list[_Link]:
        with self._lock:
            self._links = [link for link in self._links if not link.closed]
            return list(self._links)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                redis = socket.create_connection(self._upstream, timeout=5)
            except OSError:
                client.close()  # Redis is away
                continue
            redis.settimeout(None)
            link = _Link(self, client, redis)
            with self._lock:
                self._links.append(link)
            link.start()


class _Link:
    """One client's connection, and ours to Redis for it."""

    def __init__(self, wire: RedisWire, client: socket.socket, redis: socket.socket) -> None:
        self._wire, self._client, self._redis = wire, client, redis
        self.silent = threading.Event()
        self.closed = False
        self._request = b""  # since the last answer
        self._held: Stop | None = None

    def start(self) -> None:
        for run in (self._requests, self._answers):
            threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        self.closed = True
        for end in (self._client, self._redis):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _requests(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(1 << 16):
                if self.silent.is_set():
                    continue
                self._request += data
                stop = self._wire.stop_for(self._request)
                if stop is None:
                    self._redis.sendall(data)
                    continue
                self._held = stop
                self.silent.set()
                if stop.before:
                    stop.reached.set()
                else:
                    self._redis.sendall(data)
        self.close()

    def _answers(self) -> None:
        with suppress(OSError):
            while data := self._redis.recv(1 << 16):
                if self.silent.is_set():
                    if self._held is not None:
                        self._held.reached.set()
                    continue
                self._request = b""
                self._client.sendall(data)
        if not self.silent.is_set():
            self.close()
