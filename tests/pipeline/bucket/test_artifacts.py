"""The bucket: what must exist once does, and a store that cannot be used is refused in time and in words."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from embedded.services.services import Services
from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.bucket.s3 import Credentials
from pipeline.deployment.settings import Settings
from pipeline.errors import ObjectGone, StoreUnavailable

OCTETS = "application/octet-stream"


def _other(settings: Settings, **changes: Any) -> Artifacts:
    credentials = changes.pop("credentials", None)
    return Artifacts(settings.model_copy(update={"connect_timeout_s": 1.0, **changes}), credentials)


def test_a_store_that_can_be_used_passes_and_the_probe_leaves_nothing(artifacts: Artifacts) -> None:
    artifacts.check()
    assert list(artifacts.list("")) == []


def test_a_missing_bucket_is_refused_by_name(settings: Settings) -> None:
    with pytest.raises(StoreUnavailable, match=r"bucket not-there.*does not exist; .*TESSERA_S3_BUCKET"):
        _other(settings, s3_bucket="not-there").check()


def test_wrong_credentials_are_refused_and_not_repeated(settings: Settings, services: Services) -> None:
    for user in ("nobody", services.endpoints.s3_access_key):
        credentials = Credentials(user, "wr0ng-secret")
        with pytest.raises(StoreUnavailable, match=r"refuses our credentials.*AWS_ACCESS_KEY_ID") as error:
            _other(settings, credentials=credentials).check()
        assert "wr0ng-secret" not in str(error.value)
        assert "wr0ng-secret" not in repr(credentials)


def test_no_credentials_at_all_are_said_to_be_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(StoreUnavailable, match=r"no credentials for S3.*AWS_ACCESS_KEY_ID"):
        _other(settings).check()


def test_nobody_listening_is_said_within_the_timeout(settings: Settings) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9.*does not answer.*TESSERA_S3_ENDPOINT"):
        _other(settings, s3_endpoint="http://127.0.0.1:9").check()
    assert time.monotonic() - began < 30


def test_an_endpoint_that_never_answers_is_given_up_within_the_timeout(settings: Settings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            _other(settings, s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}").check()
        assert time.monotonic() - began < 30


@contextmanager
def _answering(status: int, body: bytes = b"", **headers: str) -> Iterator[str]:
    """A server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_store_that_ignores_if_none_match_is_refused(settings: Settings) -> None:
    with (
        _answering(200, ETag='"x"') as endpoint,
        pytest.raises(StoreUnavailable, match=r"If-None-Match.*overwrote an object although"),
    ):
        _other(settings, s3_endpoint=endpoint).check()


@pytest.mark.parametrize("status", [400, 500, 501, 503])
def test_any_other_answer_is_an_outage_and_not_a_crash(settings: Settings, status: int) -> None:
    with _answering(status) as endpoint, pytest.raises(StoreUnavailable, match="S3 at"):
        _other(settings, s3_endpoint=endpoint).check()


def test_an_object_that_must_exist_once_is_created_once(artifacts: Artifacts) -> None:
    assert artifacts.put_new("x", b"first", content_type=OCTETS, metadata={"k": "v"})
    assert not artifacts.put_new("x", b"second", content_type=OCTETS)
    assert artifacts.get("x") == b"first"
    found = artifacts.head("x")
    assert found is not None
    assert (found.size_bytes, dict(found.metadata)) == (5, {"k": "v", "sha256": sha256(b"first")})


def test_an_answer_that_was_lost_is_a_success_when_it_is_asked_for_again(artifacts: Artifacts) -> None:
    assert artifacts.put_new("x", b"ours", content_type=OCTETS)
    assert artifacts.put_new("x", b"ours", content_type=OCTETS)


def test_an_object_is_replaced_only_by_who_has_seen_it(artifacts: Artifacts) -> None:
    artifacts.put("x", b"damaged", content_type=OCTETS)
    seen = artifacts.head("x")
    assert seen is not None
    assert artifacts.put_new("x", b"whole", content_type=OCTETS, over=seen.etag)
    assert not artifacts.put_new("x", b"late", content_type=OCTETS, over=seen.etag)
    assert artifacts.get("x") == b"whole"
    assert not artifacts.put_new("never-there", b"x", content_type=OCTETS, over=seen.etag)


def test_of_many_that_create_one_object_one_wins_and_its_bytes_stand(artifacts: Artifacts) -> None:
    for round_ in range(2):
        won: list[int] = []

        def create(number: int, key: str = f"race-{round_}", won: list[int] = won) -> None:
            if artifacts.put_new(key, b"%d" % number, content_type=OCTETS):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [b"%d" % number for number in won] == [artifacts.get(f"race-{round_}")]


def test_what_is_not_there_is_not_empty(artifacts: Artifacts) -> None:
    assert artifacts.get("x") is None
    assert artifacts.head("x") is None
    with pytest.raises(ObjectGone, match="x is not in "):
        artifacts.lines("x")
    artifacts.put("x", b"", content_type=OCTETS)
    assert (artifacts.get("x"), list(artifacts.lines("x"))) == (b"", [])
    artifacts.delete("x")
    assert list(artifacts.list("x/")) == []
    assert list(artifacts.folders("x/")) == []


def test_lines_come_whole_however_they_fall_into_chunks(artifacts: Artifacts) -> None:
    lines = [bytes([97 + n % 26]) * (n * 37 % 5000) for n in range(200)] + ["ü\u2028".encode() * 40_000, b"", b"end"]
    artifacts.put("x", io.BytesIO(b"\n".join(lines)), content_type=OCTETS)
    assert list(artifacts.lines("x")) == lines


def test_lists_are_in_order_and_relative_to_the_prefix(artifacts: Artifacts, settings: Settings) -> None:
    for key in ("f/b/2", "f/a/1", "f/c", "g"):
        artifacts.put(key, b"", content_type=OCTETS)
    assert list(artifacts.list("f/")) == ["f/a/1", "f/b/2", "f/c"]
    assert list(artifacts.folders("f/")) == ["a", "b"]
    other = _other(settings, s3_prefix=settings.s3_prefix + "-2")
    assert list(other.list("")) == []
