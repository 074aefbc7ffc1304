"""A proxy before the API server that fails in ways which a real one does, when a test tells it to."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

from tests.cluster.api import Access

# Given method and path, says what to do with a request: None lets it pass, a status or a text answers it.
Fault = Callable[[str, str], "int | str | bytes | None"]

SWALLOW = "swallow"  # hand it on, and hang up without an answer
SILENCE = "silence"  # take it, and neither hand it on nor say a word
DEAF = "deaf"  # of a watch: it is open, and what it says is lost


@dataclass
class Proxy:
    """What passes through, and how it fails; `fault` may be changed at any time."""

    server: str
    fault: Fault = lambda _method, _path: None
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def proxy_to(access: Access) -> Iterator[Proxy]:
    """A proxy for the length of a `with` block; it speaks plain HTTP on the loopback."""
    context = ssl.create_default_context(cadata=access.authority)
    over = threading.Event()
    upstream = urllib3.PoolManager(ssl_context=context, maxsize=32, retries=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.seen.append((self.command, self.path))
            fault = proxy.fault(self.command, self.path)
            if fault == SILENCE:
                over.wait()
                self.close_connection = True
                return
            if isinstance(fault, int):
                self._answer(fault, b'{"kind":"Status","message":"the proxy says no"}', "application/json")
                return
            if isinstance(fault, bytes):
                self._answer(200, fault, "text/plain")
                return
            watch = "watch=" in self.path
            answer = upstream.request(
                self.command, access.server + self.path, body=body, headers=dict(self.headers),
                timeout=400 if watch else 60, preload_content=not watch,
            )  # fmt: skip
            if watch:
                self._hand_on(answer)
                return
            if fault == SWALLOW:
                self.close_connection = True
                return
            self._answer(answer.status, answer.data, answer.headers.get("Content-Type", "application/json"))

        do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _handle  # noqa: N815 - the base class's names

        def _hand_on(self, watch: urllib3.BaseHTTPResponse) -> None:
            self.send_response(watch.status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for line in watch:
                    if proxy.fault(self.command, self.path) != DEAF:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.write(b"0\r\n\r\n")
            except (OSError, urllib3.exceptions.HTTPError):  # one of the two has gone
                self.close_connection = True
            finally:
                watch.close()

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
