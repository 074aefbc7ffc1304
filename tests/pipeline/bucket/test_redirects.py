"""A store that sends its clients elsewhere is not followed: what they sign, and their credentials, stay with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.s3 import Credentials
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import TesseraError

SECRET = Credentials("AKIA-of-ours", "a-secret-of-ours")

ASKS: dict[str, Callable[[Artifacts], object]] = {
    "get": lambda artifacts: artifacts.get("batches/b/batch.json", patient=False),
    "head": lambda artifacts: artifacts.head("batches/b/_SUCCESS"),
    "list": lambda artifacts: list(artifacts.list("batches/")),
    "put": lambda artifacts: artifacts.put("x", b"body", content_type="text/plain"),
    "put on a condition": lambda artifacts: artifacts.put_new("x", b"body", content_type="text/plain"),
    "check": lambda artifacts: artifacts.check(),
}


@contextmanager
def _server(status: int, headers: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Answers every request with this; yields its URL and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - as the library names them

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "ask"), [*zip((301, 302, 307, 308, 301, 307), ASKS.values(), strict=True), (307, ASKS["get"])]
)
def test_a_redirect_is_an_error_and_nobody_else_is_asked(
    settings: Settings, status: int, ask: Callable[[Artifacts], object]
) -> None:
    with _server(200, {}) as (elsewhere, asked_elsewhere):
        headers = {"Location": f"{elsewhere}/stolen", "x-amz-bucket-region": "eu-north-1"}
        with _server(status, headers) as (endpoint, asked):
            artifacts = Artifacts(load_settings(settings.environment(), s3_endpoint=endpoint), SECRET)
            with pytest.raises(TesseraError) as refused:
                ask(artifacts)
    assert asked
    assert asked_elsewhere == []
    assert SECRET.secret_access_key not in str(refused.value)
