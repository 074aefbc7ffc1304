"""A wire to S3 that counts what is committed on it, and breaks on order.

What the store answered with success is counted per key here, on its way back: whether an image was committed once is
judged by that, because the object that is there in the end says nothing about how often it was put.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}
_SUCCESS = range(200, 300)


@dataclass
class Rule:
    """What happens to requests of this method ("": any) to keys in which this expression is found.

    `status` is answered without asking the store. `delay_s` passes first. `hold` waits until `release`. `cut` ends the
    connection: before anything is passed on, when half of the body is, or when the store has answered and nobody knows.
    With `every`, only each so-manieth request is hit, and with `times` only the first so many.
    """

    method: str = ""
    key: str = ""
    times: int | None = None
    status: int | None = None
    delay_s: float = 0.0
    hold: bool = False
    cut: Literal["", "request", "upload", "answer"] = ""
    every: int = 1
    seen: int = 0
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let go what is held, and apply no more."""
        self.times = self.hits
        self.released.set()


class S3Wire:
    """Passes requests on as they are, signature and Host included, except where a rule says otherwise."""

    def __init__(self, endpoint: str) -> None:
        upstream = urlsplit(endpoint)
        self.host, self.upstream_port = str(upstream.hostname), int(upstream.port or 80)
        self.puts: Counter[str] = Counter()
        self.list_late_s = 0.0  # lists do not show what was put so short a time ago
        self._put_at: dict[str, float] = {}
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Exchange)
        self._server.daemon_threads = True
        self._server.wire = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="s3-wire", daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def breaking(self, **rule: Any) -> Iterator[Rule]:
        """The rule holds inside."""
        one = Rule(**rule)
        with self._lock:
            self._rules.append(one)
        try:
            yield one
        finally:
            one.release()
            with self._lock:
                self._rules.remove(one)

    def rule_for(self, method: str, key: str) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.times == rule.hits or rule.method not in ("", method) or not re.search(rule.key, key):
                    continue
                rule.seen += 1
                if rule.seen % rule.every == 0:
                    rule.hits += 1
                    rule.reached.set()
                    return rule
        return None

    def committed(self, key: str) -> None:
        with self._lock:
            self.puts[key] += 1
            self._put_at[key] = time.monotonic()

    def unlisted(self) -> set[str]:
        """Keys, in the bucket, that a late list does not show yet."""
        since = time.monotonic() - self.list_late_s
        with self._lock:
            return {key for key, at in self._put_at.items() if at > since} if self.list_late_s else set()

    def close(self) -> None:
        for rule in self._rules:
            rule.release()
        self._server.shutdown()
        self._server.server_close()


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120

    def _exchange(self) -> None:
        wire: S3Wire = self.server.wire  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        key = unquote(url.path).lstrip("/").partition("/")[2]
        rule = wire.rule_for(self.command, key) or Rule()
        time.sleep(rule.delay_s)
        if rule.hold:
            rule.released.wait()
        if rule.cut == "request":
            self._hang_up()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if rule.status is not None:
            self._refuse(rule.status)
            return
        answer = self._asked(wire, body, cut_upload=rule.cut == "upload")
        if answer is None:
            self._hang_up()
            return
        status, headers, content = answer
        if self.command == "PUT" and status in _SUCCESS and "uploadId" not in parse_qs(url.query):
            wire.committed(key)
        if self.command == "GET" and "list-type" in parse_qs(url.query):
            content = _without(content, wire.unlisted())
        if rule.cut == "answer":
            self._hang_up()
            return
        self.send_response_only(status)
        length = headers["Content-Length"] if self.command == "HEAD" else str(len(content))
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    def _asked(self, wire: S3Wire, body: bytes, *, cut_upload: bool) -> tuple[int, Message, bytes] | None:
        """What the store answers to this very request; None if no answer comes."""
        store = HTTPConnection(wire.host, wire.upstream_port, timeout=120)
        try:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    store.putheader(name, value)
            store.endheaders()
            store.send(body[: len(body) // 2] if cut_upload else body)
            if cut_upload:
                return None
            answer = store.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, HTTPException):
            return None
        finally:
            store.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _exchange  # noqa: N815 - the base class's names

    def _refuse(self, status: int) -> None:
        code = {403: "AccessDenied", 404: "NoSuchKey", 503: "SlowDown"}[status]
        content = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was faster

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # a client that was killed

    def log_message(self, *_: object) -> None:
        """The tests' output is for the tests."""


def _without(listing: bytes, keys: set[str]) -> bytes:
    """A page of a list without these keys."""
    for key in keys:
        one = rb"<Contents>(?:(?!</Contents>).)*<Key>" + re.escape(escape(key).encode()) + rb"</Key>.*?</Contents>"
        listing = re.sub(one, b"", listing, flags=re.DOTALL)
    return listing
