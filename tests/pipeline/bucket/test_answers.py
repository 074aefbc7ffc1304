"""Answers that are none of S3, and refusals that end by themselves: outages, after which one asks again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.errors import AcceptanceUnknown, StoreRefused, StoreUnavailable
from pipeline.operations import put_manifest as module
from pipeline.operations.put_manifest import put_manifest
from pipeline.process.deadline import Deadline
from tests.factories import batch_record
from tests.pipeline.bucket.test_requirements import _hook, _Raw

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIST = b"<ListBucketResult><Name>x</Name>%b</ListBucketResult>"
ENTRY = b"<Contents><Key>a/b</Key><Size>1</Size><LastModified>%b</LastModified></Contents>"


def _says(artifacts: Artifacts, operation: str, status: int, body: bytes = b"", **headers: str) -> list[str]:
    """The store says this; returns what it was asked."""
    asked: list[str] = []

    def send(request: Any, **_: Any) -> AWSResponse:
        asked.append(f"{request.method} {request.url}")
        return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), _Raw(body))

    _hook(artifacts, f"before-send.s3.{operation}", send)
    return asked


@pytest.fixture
def own(settings: Settings) -> Artifacts:
    return Artifacts(settings.model_copy(update={"s3_prefix": "own"}))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.bucket.s3.MAX_ATTEMPTS", 1)
    monkeypatch.setattr(module, "ASK_AGAIN_S", 1.0)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (408, "RequestTimeout"),
        (400, "RequestTimeout"),
        (409, "OperationAborted"),
        (409, "ConditionalRequestConflict"),
        (425, "TooEarly"),
        (429, "TooManyRequests"),
        (429, "Odd"),
        (400, "ThrottlingException"),
        (400, "Throttling"),
        (503, "SlowDown"),
    ],
)
def test_a_store_that_is_busy_has_refused_nothing(own: Artifacts, status: int, code: str) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    for operation in ("PutObject", "GetObject"):
        _says(own, operation, status, body)
    for ask in (lambda: own.get("x"), lambda: own.put_new("x", b"body", content_type="text/plain")):
        with pytest.raises(StoreUnavailable, match=code) as error:
            ask()
        assert not isinstance(error.value, StoreRefused)
    with pytest.raises(AcceptanceUnknown):
        put_manifest(own, batch_record().manifest, Deadline(60))


@pytest.mark.parametrize("status", [408, 429])
def test_so_has_one_that_says_it_without_words(own: Artifacts, status: int) -> None:
    _says(own, "HeadObject", status)
    with pytest.raises(StoreUnavailable) as error:
        own.head("x")
    assert not isinstance(error.value, StoreRefused)


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "InvalidArgument"), (409, "BucketNotEmpty")])
def test_what_changes_nothing_when_it_is_asked_again_is_refused(own: Artifacts, status: int, code: str) -> None:
    _says(own, "GetObject", status, f"<Error><Code>{code}</Code></Error>".encode())
    with pytest.raises(StoreRefused, match=code):
        own.get("x")


ASKS: dict[str, tuple[str, Callable[[Artifacts], object]]] = {
    "put": ("PutObject", lambda own: own.put("x", b"body", content_type="text/plain")),
    "put_new": ("PutObject", lambda own: own.put_new("x", b"body", content_type="text/plain")),
    "put_file": ("PutObject", lambda own: own.put("x", _Raw(b"body"), content_type="text/plain")),
    "get": ("GetObject", lambda own: own.get("x")),
    "get_tagged": ("GetObject", lambda own: own.get_tagged("x")),
    "stream": ("GetObject", lambda own: own.stream("x")),
    "head": ("HeadObject", lambda own: own.head("x")),
    "list": ("ListObjectsV2", lambda own: list(own.list("a/"))),
    "folders": ("ListObjectsV2", lambda own: list(own.folders("a/"))),
    "older": ("ListObjectsV2", lambda own: list(own.older("a/", NOW))),
}


@pytest.mark.parametrize("body", [b"", b"<html><p>Sign in</p></html>", b"<html>Sign in<br></html>"])
@pytest.mark.parametrize("ask", ASKS)
def test_a_success_that_is_none_of_s3_is_an_outage(own: Artifacts, ask: str, body: bytes) -> None:
    operation, act = ASKS[ask]
    _says(own, operation, 200, body)
    with pytest.raises(StoreUnavailable) as error:
        act(own)
    assert not isinstance(error.value, StoreRefused)


@pytest.mark.parametrize(
    "entry",
    [
        b"<Contents><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>",
        b"<Contents><Key>a/b</Key><Size>1</Size></Contents>",
        b"<CommonPrefixes></CommonPrefixes><Contents/>",
        b"<IsTruncated>true</IsTruncated>" + ENTRY % b"2026-01-01T00:00:00Z",
        ENTRY % b"yesterday",
    ],
)
@pytest.mark.parametrize("ask", ["list", "older"])
def test_a_list_of_which_something_is_missing_is_an_outage(own: Artifacts, ask: str, entry: bytes) -> None:
    _says(own, "ListObjectsV2", 200, LIST % entry)
    with pytest.raises(StoreUnavailable, match="an answer that S3 does not give"):
        ASKS[ask][1](own)


def test_an_empty_list_of_s3_is_empty(own: Artifacts) -> None:
    _says(own, "ListObjectsV2", 200, LIST % b"<KeyCount>0</KeyCount>")
    assert list(own.list("a/")) == []
