"""The committer: files and uploads behind the rendering, several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distri.ranks.spans import Spans
from distri.run import committer as module
from distri.run.committer import Committer, PodIdentity
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import attempt_spec, image_result, job_record, resolved_row

PIXELS = np.zeros((64, 64, 3), dtype=np.uint8)


class Store:
    """A bucket that takes its time."""

    def __init__(self) -> None:
        self.put_keys: list[str] = []
        self.gates: dict[int, threading.Event] = {}
        self.entered: list[int] = []
        self.error: Exception | None = None

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        self.put_keys.append(key)
        self.body = body

    def commit(self, _artifacts: Any, _objects: Any, result: ImageResult, _file: Any) -> ImageResult:
        self.entered.append(result.index)
        if self.error is not None:
            raise self.error
        if (gate := self.gates.get(result.index)) is not None:
            assert gate.wait(60)
        return result


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    own = Store()
    monkeypatch.setattr(module, "commit_image", own.commit)
    return own


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def committer(store: Store, spans: Spans) -> Iterator[Committer]:
    ledger: Any = SimpleNamespace(images=SimpleNamespace(move_by_pod=lambda *_, **__: None))
    artifacts: Any = store
    yield Committer(PodIdentity(attempt_spec(job_record()), "uid"), ledger, artifacts, lambda _: None, spans)
    for gate in store.gates.values():
        gate.set()


def _render(committer: Committer, index: int) -> None:
    task = ImageTask(resolved_row(index), 0)
    committer.commit_rendered(task, image_result(task), PIXELS)


def _soon(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_image_overtakes_one_whose_upload_takes_long(committer: Committer, store: Store, spans: Spans) -> None:
    store.gates[0] = threading.Event()
    for index in range(3):
        _render(committer, index)
    _soon(lambda: committer.outcomes.keys() == {1, 2})
    committer.finish(0)
    assert not committer.wait_until_finished(0.05)
    assert store.put_keys == []
    store.gates[0].set()
    _soon(lambda: committer.wait_until_finished(1.0))
    assert [key.rpartition("/")[2] for key in store.put_keys] == ["00000.jsonl"]
    assert store.body.count(b"\n") == 3
    tracks = {span.track for span in spans}
    assert {span.name for span in spans} == {"file", "upload"}
    assert len(tracks) > 1
    for track in tracks:
        own = sorted((span.start_ns, span.end_ns) for span in spans if span.track == track)
        assert all(end <= start for (_, end), (start, _) in pairwise(own))


def test_a_pod_that_ends_before_its_time_waits_for_its_uploads(committer: Committer, store: Store) -> None:
    store.gates[0] = threading.Event()
    _render(committer, 0)
    flushed = threading.Thread(target=committer.flush, daemon=True)
    flushed.start()
    flushed.join(0.2)
    assert flushed.is_alive()
    store.gates[0].set()
    flushed.join(60)
    assert not flushed.is_alive()
    assert committer.outcomes.keys() == {0}
    assert store.put_keys == []


def test_no_more_files_are_made_at_a_time_than_there_are_threads(committer: Committer, store: Store) -> None:
    count = module.UPLOADS + 3
    store.gates.update({index: threading.Event() for index in range(count)})
    for index in range(count):
        _render(committer, index)
    _soon(lambda: len(store.entered) == module.UPLOADS)
    assert committer.outcomes == {}
    store.gates[store.entered[0]].set()
    _soon(lambda: len(store.entered) == module.UPLOADS + 1)


def test_rendering_waits_while_too_many_pixels_wait(
    committer: Committer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 2 * PIXELS.nbytes)
    store.gates[0] = store.gates[1] = threading.Event()
    _render(committer, 0)
    assert committer.wait_for_room(0)
    _render(committer, 1)
    assert not committer.wait_for_room(0.05)
    store.gates[0].set()
    assert committer.wait_for_room(60)


def test_what_a_thread_ended_with_is_raised_where_images_are_rendered(committer: Committer, store: Store) -> None:
    store.error = ZeroDivisionError("ours")
    _render(committer, 0)
    with pytest.raises(ZeroDivisionError, match="ours"):
        _soon(lambda: not committer.wait_for_room(0.01))
