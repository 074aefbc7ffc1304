"""An API server that answers with what a real one once said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubernetes import client

from k8s.cluster import Cluster

Answer = Callable[[str, str], tuple[int, Any]]


@dataclass
class Replay:
    """What is answered next, to a method and path; what was asked; and how far its clock is behind ours."""

    cluster: Cluster
    answer: Answer
    behind_s: float = 0.0
    asked: list[tuple[str, str, Any]] = field(default_factory=list)


@contextmanager
def replayed(answer: Answer) -> Iterator[Replay]:
    """The server for the length of a `with` block, and a `Cluster` that talks to it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            replay.asked.append((self.command, self.path, json.loads(text) if text else None))
            status, body = replay.answer(self.command, self.path)
            if isinstance(body, Iterator):
                self._stream(status, body)
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, status: int, lines: Iterator[Any]) -> None:
            self.send_response(status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for line in lines:
                    data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")
            except OSError:  # whoever watched has gone, or a test's lines end in a broken connection
                self.close_connection = True

        do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - the base class's names

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) - replay.behind_s)

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")
    configuration.retries = False
    configuration.proxy = None
    replay = Replay(Cluster(client.ApiClient(configuration), "render", 5), answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield replay
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
