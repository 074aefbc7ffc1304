"""The watch as a hint: it makes looks rare while nothing moves, and whatever is wrong with it, no look is wrong."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from k8s import watch as watch_module
from k8s.cluster import ClusterUnavailable, WatchExpired
from k8s.launcher import KubernetesLauncher
from k8s.pod import pod_settings
from k8s.watch import Watch
from tasks.process.observer import QUIET_LOOK_S, Observer
from tests.k8s.replay import Replay, replayed

EXPIRED = json.loads((Path(__file__).parent / "recorded" / "api-errors" / "410-watch-expired.json").read_text())
OVER, BREAK = object(), object()

Make = Callable[..., Any]


def _change(version: int, kind: str = "MODIFIED") -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"resourceVersion": str(version)}}}


class Server:
    """Watches that stay open and say what a test tells them to; everything else is an empty list."""

    def __init__(self) -> None:
        self.refuses: tuple[int, Any] | None = None
        self.expired: tuple[int, Any] | None = None  # how to answer who would go on from a version
        self.opened: list[dict[str, list[str]]] = []
        self._says: list[queue.Queue[Any]] = []

    def answer(self, _method: str, path: str) -> tuple[int, Any]:
        query = parse_qs(urlsplit(path).query)
        if "watch" not in query:
            return 200, {"items": [], "metadata": {}}
        if self.refuses is not None:
            return self.refuses
        if self.expired is not None and "resourceVersion" in query:
            status, body = self.expired
            return status, iter([body]) if status == 200 else body
        lines: queue.Queue[Any] = queue.Queue()
        self._says.append(lines)
        self.opened.append(query)
        return 200, self._lines(lines)

    def say(self, line: Any) -> None:
        """Every watch that is open gets this line; OVER ends it, BREAK cuts it off."""
        for lines in self._says:
            lines.put(line)
        if line is OVER or line is BREAK:
            self._says.clear()

    @staticmethod
    def _lines(lines: queue.Queue[Any]) -> Iterator[Any]:
        while (line := lines.get()) is not OVER:
            if line is BREAK:
                raise BrokenPipeError
            yield line


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(watch_module, "FIRST_BROKEN_PAUSE_S", 0.02)
    monkeypatch.setattr(watch_module, "LONGEST_PAUSE_S", 0.05)


@contextmanager
def _watching(kind: str = "pods") -> Iterator[tuple[Server, Watch]]:
    server = Server()
    with replayed(server.answer) as replay:
        watch = Watch(replay.cluster, kind, "tessera/deployment=studio")  # type: ignore[arg-type]
        try:
            yield server, watch
        finally:
            watch.close()
            server.say(OVER)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _quiet(watch: Watch) -> bool:
    """Whether the watch says so of a look that is taken now."""
    moment = time.monotonic()
    time.sleep(0.001)
    return watch.quiet_since(moment)


def test_a_watch_is_quiet_once_open_and_until_something_moves() -> None:
    with _watching() as (server, watch):
        before = time.monotonic()
        assert not watch.quiet_since(before)
        _until(lambda: _quiet(watch))
        assert not watch.quiet_since(before)  # what happened before it was open, it cannot tell
        looked_at = time.monotonic()
        server.say(_change(7))
        _until(lambda: not watch.quiet_since(looked_at))
        assert _quiet(watch)
        (query,) = server.opened
        assert query["labelSelector"] == ["tessera/deployment=studio"]
        assert query["allowWatchBookmarks"] == ["true"]
        assert int(query["timeoutSeconds"][0]) > 0
        assert "resourceVersion" not in query


def test_a_bookmark_is_no_movement_and_says_where_to_go_on() -> None:
    with _watching() as (server, watch):
        _until(lambda: _quiet(watch))
        looked_at = time.monotonic()
        server.say(_change(41, "BOOKMARK"))
        server.say(OVER)
        _until(lambda: len(server.opened) == 2)
        assert server.opened[1]["resourceVersion"] == ["41"]
        # What moved meanwhile, the second one would say.
        _until(lambda: watch.quiet_since(looked_at))


@pytest.mark.parametrize("expired", [(410, EXPIRED["lines"][0]["object"]), (200, EXPIRED["lines"][0])])
def test_an_expired_version_begins_anew_and_makes_every_earlier_look_old(expired: tuple[int, Any]) -> None:
    with _watching() as (server, watch):
        _until(lambda: _quiet(watch))
        looked_at = time.monotonic()
        server.say(_change(3, "BOOKMARK"))
        server.expired = expired
        server.say(OVER)
        _until(lambda: len(server.opened) == 2 and _quiet(watch))
        assert "resourceVersion" not in server.opened[1]
        # Something may have gone in the gap, which no watch tells any more.
        assert not watch.quiet_since(looked_at)


@pytest.mark.parametrize(
    "harm",
    [
        BREAK,
        b"{not json}\n",
        b'{"type": "MODIFIED"}\n',
        b"[]\n",
        {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}},
        {"type": "ERROR", "object": None},
    ],
)
def test_a_watch_that_breaks_off_is_not_quiet_and_comes_back(harm: Any) -> None:
    with _watching() as (server, watch):
        _until(lambda: _quiet(watch))
        server.refuses = (503, {"message": "busy"})
        server.say(harm)
        _until(lambda: not _quiet(watch))
        server.refuses = None
        _until(lambda: _quiet(watch))


def test_a_silent_connection_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s.cluster.SILENCE_S", 0.2)
    with _watching() as (server, watch):
        watch.quiet_since(0)
        _until(lambda: len(server.opened) >= 3)


@pytest.mark.parametrize("refusal", [(403, {"message": "cannot watch"}), (200, {"items": []}), (500, b"<html>")])
def test_without_the_right_to_watch_nothing_is_quiet_and_nothing_fails(refusal: tuple[int, Any]) -> None:
    with _watching("jobs") as (server, watch):
        server.refuses = refusal
        watch.quiet_since(0)
        time.sleep(0.2)
        assert not _quiet(watch)
        server.refuses = None
        _until(lambda: _quiet(watch))


def test_a_watch_that_cannot_be_had_says_why() -> None:
    with replayed(lambda _method, _path: (200, iter(EXPIRED["lines"]))) as replay:
        with pytest.raises(WatchExpired):
            list(replay.cluster.watch("jobs", "a=b", "2"))
        replay.answer = lambda _method, _path: (403, {"message": "pods is forbidden"})
        with pytest.raises(ClusterUnavailable, match="pods is forbidden"):
            replay.cluster.watch("pods", "a=b", None)


@contextmanager
def _observer(make_settings: Make) -> Iterator[tuple[Server, Observer, Callable[[], int]]]:
    server = Server()
    settings = make_settings()

    def lists(replay: Replay) -> int:
        return sum("watch=" not in path and "/pods?" in path for _, path, _ in replay.asked)

    with replayed(server.answer) as replay:
        launcher = KubernetesLauncher(replay.cluster, settings, pod_settings(settings))
        try:
            yield server, Observer(launcher, 0.01), lambda: lists(replay)
        finally:
            launcher.close()
            server.say(OVER)


def test_looks_are_shared_for_longer_while_nothing_moves_and_no_longer(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _observer(make_settings) as (server, observer, lists):
        observer.look()

        def rests() -> bool:
            before = lists()
            time.sleep(0.02)
            observer.look()
            return lists() == before

        _until(rests)
        assert len(server.opened) == 2  # Jobs and pods
        before = lists()
        server.say(_change(9))
        _until(lambda: observer.look() is not None and lists() > before)
        _until(rests)
        before = lists()
        observer.look(after=time.monotonic())  # who needs one as of now gets it
        assert lists() == before + 1
        # A watch that was cut off without a sign is believed for so long and no longer.
        monkeypatch.setattr("tasks.process.observer.QUIET_LOOK_S", 0.05)
        time.sleep(0.06)
        observer.look()
        assert lists() == before + 2
    assert QUIET_LOOK_S <= 15


def test_without_a_watch_looks_are_as_frequent_as_the_interval_says(make_settings: Make) -> None:
    with _observer(make_settings) as (server, observer, lists):
        server.refuses = (403, {"message": "no"})
        for expected in range(1, 6):
            observer.look()
            assert lists() == expected
            time.sleep(0.02)
