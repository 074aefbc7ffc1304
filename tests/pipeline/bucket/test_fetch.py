"""What is too large to be a record is as unreadable as what is damaged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch, fetch_lines, fetch_manifest, fetch_marker, fetch_outcomes, fetch_shard
from pipeline.errors import RecordUnreadable
from pipeline.records.end_marker import EndMarker
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.states import BatchState

OBJECTS = BatchObjects("b")
MARKER = OBJECTS.marker(BatchState.COMPLETED)

FETCHERS: dict[str, tuple[str, Callable[[Artifacts], object]]] = {
    "a record": (OBJECTS.sidecar(0, 0), lambda it: fetch(ImageResult, it, OBJECTS.sidecar(0, 0))),
    "a manifest": (OBJECTS.manifest, lambda it: fetch_manifest(it, "b")),
    "a shard": (OBJECTS.shard(0), lambda it: fetch_shard(it, OBJECTS.shard(0))),
    "a fragment": (OBJECTS.fragment(0), lambda it: fetch_outcomes(it, OBJECTS, 0)),
}
BODIES = {"damaged": b"{", "too large": b" " * 100}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.bucket.artifacts.largest", lambda _key: 50)


@pytest.mark.parametrize(("key", "fetcher"), FETCHERS.values(), ids=FETCHERS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_there_and_no_record_raises_one_error(
    artifacts: Artifacts, key: str, fetcher: Callable[[Artifacts], object], body: bytes
) -> None:
    assert fetcher(artifacts) is None
    artifacts.put(key, body, content_type="application/json")
    with pytest.raises(RecordUnreadable, match=f"{key}"):
        fetcher(artifacts)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_marker_that_is_none_is_a_damaged_one(artifacts: Artifacts, body: bytes) -> None:
    assert fetch_marker(artifacts, OBJECTS, BatchState.COMPLETED) is None
    artifacts.put(MARKER, body, content_type="application/json")
    assert fetch_marker(artifacts, OBJECTS, BatchState.COMPLETED) == EndMarker(state=BatchState.COMPLETED, damaged=True)


def test_of_a_file_that_is_too_large_there_is_one_line_that_cannot_be_read(artifacts: Artifacts) -> None:
    key = OBJECTS.fragment(0)
    assert fetch_lines(artifacts, key) is None
    artifacts.put(key, b"1\n2\n", content_type="application/x-ndjson")
    assert fetch_lines(artifacts, key) == [b"1", b"2"]
    artifacts.put(key, b"1\n" * 100, content_type="application/x-ndjson")
    assert fetch_lines(artifacts, key) == [b"{"]


def test_what_is_too_large_can_be_replaced_by_its_etag(artifacts: Artifacts) -> None:
    artifacts.put(MARKER, b" " * 100, content_type="application/json")
    there = artifacts.get_tagged(MARKER)
    assert there is not None
    assert there.body == b""
    assert artifacts.put_new(MARKER, b"{}", content_type="application/json", over=there.etag)
    assert artifacts.get(MARKER) == b"{}"
