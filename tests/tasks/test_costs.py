"""What the control plane asks of S3 and Redis follows from what there is to do, never from what is done already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.connection import AbstractConnection

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.ledger import generations
from pipeline.records.attempt import AttemptSpec
from pipeline.records.object_keys import BatchObjects
from tasks.app import render
from tasks.control.tick import tick
from tests.counting import Asked, counted
from tests.own_valkey import with_own_valkey
from tests.tasks.node import Play, Pod
from tests.tasks.stage import SUCCEEDED, Stage

# Round trips to Redis. A hint or a claim in vain may come in between.
MOST_A_TICK, MOST_A_JOB, MORE_OR_LESS = 16, 16, 4

# What a tick does now and then. How much of it is due must not follow from how fast this machine is.
OFTEN = ("tick.BUCKET_EVERY_S", "tick.ORPHANS_EVERY_S", "generation.BUCKET_EVERY_S")
SELDOM = (
    *("tick.RETENTION_EVERY_S", "tick.CLEAN_STAGED_EVERY_S"),
    *("fill_queues.JOBS_EVERY_S", "fill_queues.LISTS_EVERY_S"),
)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """On a Redis of the test's own, which is not asked meanwhile which one it is: its counters are read."""
    monkeypatch.setattr(generations, "SERVER_S", 600.0)
    with with_own_valkey(settings, tmp_path / "own") as own:
        yield own


@pytest.fixture
def quiet(stage: Stage) -> Stage:
    """Its pods have a connection of their own to the bucket, and are over at the first look."""
    own = Artifacts(stage.settings)

    def play(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = Pod(spec, stage.ledger, own)
            pod.register()
            pod.commit(pod.tasks)
            pod.write_fragment()

        return [work, SUCCEEDED]

    stage.node.play = play
    return stage


@pytest.fixture
def only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tick does all of it, and no later one."""
    for name in (*OFTEN, *SELDOM):
        monkeypatch.setattr(f"tasks.control.{name}", 24 * 3600.0)


@pytest.fixture
def every_time(only_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tick does all that is done every few seconds."""
    for name in OFTEN:
        monkeypatch.setattr(f"tasks.control.{name}", 0.0)
    monkeypatch.setattr("tasks.control.tick.BUCKET_SHARE", 1000.0)


def _redis_calls(stage: Stage, action: Callable[[], object]) -> int:
    """Commands that Redis runs while the action lasts, those of scripts included."""
    redis = stage.ledger.store.redis
    before = redis.info("stats")["total_commands_processed"]
    action()
    return int(redis.info("stats")["total_commands_processed"]) - int(before)


def _worked(stage: Stage, batch_id: str) -> tuple[Asked, int]:
    """What three jobs of three images cost."""
    stage.batch(9, batch_id)
    with counted(stage.artifacts) as asked:
        calls = _redis_calls(stage, lambda: render(stage.worker))
    assert stage.ledger.jobs.unfinished(batch_id) == []
    stage.finalized(batch_id)
    return asked, calls


def test_a_job_costs_three_questions_to_the_bucket_and_as_much_as_any_job_before_it(quiet: Stage) -> None:
    _worked(quiet, "a")  # which teaches Redis the scripts
    costs = [_worked(quiet, name) for name in "bcd"]
    assert costs[0][0].calls == {"GetObject": 2 * 3, "ListObjectsV2": 3}
    assert [asked for asked, _ in costs] == [costs[0][0]] * 3
    assert costs[2][1] <= costs[0][1] + MORE_OR_LESS  # six jobs more are over


def test_a_fragment_that_says_it_all_is_left_as_the_pod_wrote_it(stage: Stage) -> None:
    stage.batch(2)
    key = BatchObjects("b").fragment(0)

    def newer(spec: AttemptSpec) -> Play:
        def work() -> None:
            stage.pods_work(spec)
            lines = [json.loads(line) | {"of_a_newer_version": 1} for line in stage.artifacts.lines(key)]
            body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            stage.artifacts.put(key, body, content_type="application/x-ndjson")

        return [work, SUCCEEDED]

    stage.node.play = newer
    stage.work()
    assert [json.loads(line)["of_a_newer_version"] for line in stage.artifacts.lines(key)] == [1, 1]
    stage.finalized()
    assert [line["index"] for line in stage.lines("results.jsonl")] == [0, 1]


def test_the_look_into_the_bucket_takes_no_more_of_the_time_when_it_takes_longer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.control.tick.BUCKET_EVERY_S", 0.0)
    monkeypatch.setattr("tasks.control.tick.BUCKET_SHARE", 1e-4)
    tick(stage.worker)
    stage.accepted(1, "late")
    stage.ledger.store.redis.delete(stage.ledger.store.keys.batch("late"))
    tick(stage.worker)
    assert not stage.ledger.batches.known("late")
    stage.ledger.store.redis.delete(stage.ledger.store.keys.rest("bucket"))
    tick(stage.worker)
    assert stage.ledger.batches.known("late")


def _round_trips(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> int:
    """How often something was sent to Redis while the action lasted."""
    sent: list[object] = []
    send = AbstractConnection.send_packed_command

    def counting(self: AbstractConnection, *args: Any, **kwargs: Any) -> None:
        sent.append(args)
        send(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patched:
        patched.setattr(AbstractConnection, "send_packed_command", counting)
        action()
    return len(sent)


@pytest.mark.usefixtures("only_once")
def test_round_trips_of_a_tick_do_not_grow_with_open_batches(quiet: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet.batch(3, "a")
    tick(quiet.worker)  # which is the first of everything
    few = _round_trips(monkeypatch, lambda: tick(quiet.worker))
    for name in "bcdef":
        quiet.batch(3, name)
    assert _round_trips(monkeypatch, lambda: tick(quiet.worker)) <= few + MORE_OR_LESS
    assert few <= MOST_A_TICK


def test_a_job_costs_few_round_trips_to_redis(quiet: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _worked(quiet, "a")  # which teaches Redis the scripts, and proves the model
    quiet.batch(9, "b")
    sent = _round_trips(monkeypatch, lambda: render(quiet.worker))
    assert sent <= 3 * MOST_A_JOB + MORE_OR_LESS


@pytest.mark.usefixtures("every_time")
def test_a_tick_costs_the_same_however_many_batches_are_over(quiet: Stage) -> None:
    quiet.batch(3, "open")
    tick(quiet.worker)
    costs = []
    for names in ("a", "bcdef"):
        for name in names:
            _worked(quiet, name)
        with counted(quiet.artifacts) as asked:
            calls = _redis_calls(quiet, lambda: tick(quiet.worker))
        costs.append((asked.calls, calls))
    (asked_first, calls_first), (asked_last, calls_last) = costs
    assert asked_first == asked_last
    assert calls_last <= calls_first + MORE_OR_LESS  # five batches more are over
