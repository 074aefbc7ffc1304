"""The launcher before a real cluster's answers, one moment after another, as a poller gets them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k8s.clock import ServerClock
from k8s.job_manifest import BATCH_ANNOTATION
from k8s.launcher import KubernetesLauncher
from k8s.pod import pod_settings
from pipeline.deployment.settings import Settings
from pipeline.errors import StoreUnavailable
from pipeline.records.attempt import AttemptPhase, AttemptSpec, Code, LaunchResult, Observation
from tests.k8s.replay import Replay, replayed

RECORDED = Path(__file__).parent / "recorded"

Make = Callable[..., Any]

# While it was recorded, so that no clock has run out.
THEN = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)


def _load(moment: str, name: str) -> Any:
    return json.loads((RECORDED / moment / f"{name}.json").read_text())


def _answers(moment: str) -> Callable[[str, str], tuple[int, Any]]:
    def answer(_method: str, path: str) -> tuple[int, Any]:
        job = _load(moment, "job")
        if "/jobs" in path:
            return 200, {"items": [job] if job["kind"] == "Job" else [], "metadata": {}}
        return 200, _load(moment, "pods" if "/pods" in path else "events")

    return answer


@contextmanager
def _poller(settings: Settings, now: datetime = THEN) -> Iterator[tuple[Replay, KubernetesLauncher]]:
    with replayed(lambda _method, _path: (500, {})) as replay:
        yield replay, KubernetesLauncher(replay.cluster, settings, pod_settings(settings), now=lambda: now)


def _looks(settings: Settings, moments: list[str], now: datetime = THEN) -> list[Observation | None]:
    with _poller(settings, now) as (replay, launcher):
        seen = []
        for moment in moments:
            replay.answer = _answers(moment)
            seen.append(next(iter(launcher.observe().values()), None))
        return seen


def _moments(folder: str) -> list[str]:
    return [f"{folder}/{path.name}" for path in sorted((RECORDED / folder).iterdir()) if path.is_dir()]


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("preempted-failjob", Code.PREEMPTED),
        ("drained-failjob", Code.EVICTED),
        ("node-lost-failjob", Code.NODE_LOST),
        ("node-lost-and-back-failjob", Code.NODE_LOST),
        ("pod-deleted-failjob", Code.DELETED),
        ("job-deadline-failjob", Code.DEADLINE),
        ("pod-deadline-failjob", Code.DEADLINE),
        ("oom-killed-failjob", Code.OOM_KILLED),
        ("failed-exit-64-failjob", Code.CONFIG_ERROR),
    ],
)
def test_who_looks_at_every_moment_calls_the_end_by_one_name(make_settings: Make, folder: str, code: Code) -> None:
    seen = _looks(make_settings(), _moments(folder))
    ends = [one for one in seen if one is not None and one.phase is AttemptPhase.ENDED]
    assert ends
    assert len(set(ends)) == 1  # an end that was seen is not judged again, whatever has gone since
    assert ends[0].outcome is not None
    assert ends[0].outcome.code is code
    assert ends[0].outcome.node == "gpu-node-1" or folder == "job-deadline-failjob"


@pytest.mark.parametrize("folder", ["preempted-failjob", "drained-failjob", "pod-deadline-failjob"])
def test_who_looks_long_after_finds_an_end_too(make_settings: Make, folder: str) -> None:
    (seen,) = _looks(make_settings(), _moments(folder)[-1:])
    assert seen is not None
    assert seen.outcome is not None
    assert seen.outcome.code is not Code.UNKNOWN


def test_a_lost_node_ends_the_attempt_when_its_clock_has_run_out(make_settings: Make) -> None:
    moment = "node-lost-failjob/3-still-terminating"
    (soon,) = _looks(make_settings(), [moment], now=datetime(2026, 11, 22, 20, 56, 30, tzinfo=UTC))
    (later,) = _looks(make_settings(), [moment], now=datetime(2026, 11, 22, 21, 0, 0, tzinfo=UTC))
    assert soon is not None
    assert soon.phase is AttemptPhase.RUNNING
    assert later is not None
    assert later.outcome is not None
    assert (later.outcome.code, later.outcome.node) == (Code.NODE_LOST, "gpu-node-1")


def test_waits_are_counted_by_the_clock_of_the_server_that_wrote_their_beginning(make_settings: Make) -> None:
    """A worker whose clock is twenty minutes ahead would give a job up at the first pull that fails."""
    settings = make_settings()
    answers = _answers("image-pull-back-off/2-first-error")
    with replayed(answers) as replay:
        began = datetime.fromisoformat(
            _load("image-pull-back-off/2-first-error", "job")["metadata"]["creationTimestamp"]
        )
        launcher = KubernetesLauncher(replay.cluster, settings, pod_settings(settings))
        replay.behind_s = (datetime.now(UTC) - began).total_seconds() - 60
        [seen] = launcher.observe().values()
        assert (seen.phase, seen.outcome) == (AttemptPhase.PENDING, None)
        replay.behind_s -= 20 * 60
        replay.cluster.job("any")
        [seen] = launcher.observe().values()
        assert seen.outcome is not None
        assert seen.outcome.code is Code.IMAGE_PULL


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Nov 2026 25:00:00 GMT"])
def test_a_server_that_says_no_time_leaves_us_ours(date: str | None) -> None:
    clock = ServerClock()
    clock.note(date)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=60)


def test_events_are_asked_for_only_where_they_explain(make_settings: Make) -> None:
    def asked(moment: str) -> bool:
        with _poller(make_settings()) as (replay, launcher):
            replay.answer = _answers(moment)
            launcher.observe()
            launcher.observe()
            requests = [path for _, path, _ in replay.asked if "/events" in path]
            assert len(requests) <= 1
            return bool(requests)

    assert asked("quota-exceeded/2-refused")
    assert asked("volume-secret-missing/2-waiting")
    assert asked("drained-failjob/5-long-after")
    assert not asked("succeeded/2-running")
    assert not asked("unschedulable/1-pending")
    assert not asked("failed-exit-1/3-final")


def test_a_job_that_has_lost_its_pod_is_asked_after_its_pods(make_settings: Make) -> None:
    with _poller(make_settings()) as (replay, launcher):
        replay.answer = _answers("succeeded/2-running")
        launcher.observe()
        kinds = [path.split("?")[0].rsplit("/", 1)[-1] for _, path, _ in replay.asked]
        assert kinds == ["pods", "jobs"]


def test_a_refused_job_has_ended_and_the_cluster_is_asked_once(make_settings: Make, make_spec: Make) -> None:
    spec: AttemptSpec = make_spec()
    recorded = json.loads((RECORDED / "api-errors" / "422-invalid.json").read_text())
    with _poller(make_settings()) as (replay, launcher):
        replay.answer = lambda method, _path: (422, recorded["body"]) if method == "POST" else (200, {"items": []})
        assert launcher.launch(spec) is LaunchResult.CREATED
        seen = launcher.observe()[spec.name]
        assert seen.outcome is not None
        assert seen.outcome.code is Code.CONFIG_ERROR
        assert (seen.batch_id, seen.job_index) == (spec.batch_id, spec.job_index)


def test_nobody_waits_for_a_list_of_events_that_does_not_come(
    make_settings: Make, make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.events.WAIT_S", 0.1)
    spec: AttemptSpec = make_spec()
    answer, over = _answers("drained-failjob/5-long-after"), threading.Event()

    def hangs(method: str, path: str) -> tuple[int, Any]:
        if "/events" in path:
            over.wait(60)
            return 200, {"items": []}
        return (201, {}) if method == "POST" else (200, {}) if method == "DELETE" else answer(method, path)

    with _poller(make_settings()) as (replay, launcher):
        replay.answer = hangs
        try:
            seen = next(iter(launcher.observe().values()))
            assert seen.outcome is not None
            assert launcher.launch(spec) is LaunchResult.CREATED
            launcher.delete(seen.name)
            launcher.observe()
            assert not over.is_set()
            assert sum("/events" in path for _, path, _ in replay.asked) == 1  # it was asked for once, and still is
            assert [method for method, _, _ in replay.asked if method in ("POST", "DELETE")] == ["POST", "DELETE"]
        finally:
            over.set()


def test_a_job_is_deleted_before_the_end_of_its_log_is_stored(make_settings: Make) -> None:
    """A bucket that is away keeps no GPU."""
    stored: list[str] = []
    with replayed(lambda _method, _path: (500, {})) as replay:

        def save(_key: str, text: str) -> None:
            assert replay.asked[-1][0] == "DELETE"
            stored.append(text)
            raise StoreUnavailable("away")

        settings = make_settings()
        launcher = KubernetesLauncher(replay.cluster, settings, pod_settings(settings), now=lambda: THEN, save_log=save)
        moment = "failed-exit-1/3-final"

        def answer(method: str, path: str) -> tuple[int, Any]:
            if "/log" in path:
                return 200, b"the end"
            if method == "DELETE":
                return 200, {}
            if "/pods/" in path:
                return 200, _load(moment, "pods")["items"][0]
            status, body = _answers(moment)(method, path)
            if "/jobs" in path:
                body["items"][0]["metadata"]["annotations"] = {BATCH_ANNOTATION: "b"}
            return status, body

        replay.answer = answer
        (name,) = launcher.observe()
        launcher.delete(name)
    assert stored
