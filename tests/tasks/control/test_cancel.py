"""A batch that is cancelled while its jobs wait, are launched or run."""

from __future__ import annotations

import pytest

from pipeline.operations.cancel import request_cancel
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code
from pipeline.states import BatchState, JobState
from tasks.app import render
from tasks.control import tick
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tests.tasks.node import Killed, Play
from tests.tasks.stage import Stage


def _cancelled(stage: Stage, codes: list[str]) -> None:
    """The batch is over, and each image without a picture says why."""
    stage.finalized()
    assert stage.batch_state() is BatchState.CANCELLED
    assert [line["code"] for line in stage.lines("errors.jsonl")] == codes
    assert stage.artifacts.head("batches/b/_CANCELLED") is not None
    assert stage.artifacts.head("batches/b/_SUCCESS") is None


def _swept(stage: Stage) -> None:
    """The tick asks for waiting jobs to be cancelled, and somebody does it."""
    tick.tick(stage.worker)
    assert "tessera.cancel" in stage.hints()
    cancel(stage.worker, "b")


def test_jobs_that_wait_are_cancelled_by_the_tick_and_never_launched(stage: Stage) -> None:
    stage.batch(4)
    request_cancel(stage.ledger, "b")
    _swept(stage)
    assert (stage.state(0), stage.state(1)) == (JobState.CANCELLED, JobState.CANCELLED)
    assert stage.images() == ["cancelled"] * 4
    assert stage.node.launched == []
    _cancelled(stage, ["E_CANCELLED"] * 4)


def test_a_batch_cancelled_before_it_was_cut_gives_each_image_an_outcome(stage: Stage) -> None:
    stage.accepted(4)
    request_cancel(stage.ledger, "b")
    tick.tick(stage.worker)
    assert "tessera.expand" in stage.hints()
    expand(stage.worker, "b")
    _swept(stage)
    _cancelled(stage, ["E_CANCELLED"] * 4)


def test_a_worker_that_claims_a_job_of_a_cancelled_batch_cancels_it(stage: Stage) -> None:
    stage.batch(2)
    request_cancel(stage.ledger, "b")
    render(stage.worker)
    assert (stage.state(), stage.node.launched) == (JobState.CANCELLED, [])


@pytest.mark.parametrize("point", ["before launch", "after launch"])
def test_a_job_cancelled_while_it_is_launched_ends_without_a_pod(stage: Stage, point: str) -> None:
    stage.batch(2)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    stage.node.kills.add(point)
    with pytest.raises(Killed):
        render(stage.new_worker("dying", lease_s=600.0))
    request_cancel(stage.ledger, "b")
    _swept(stage)
    assert stage.state() is JobState.LAUNCHING  # somebody may hold it, or something may run: not the tick's to end
    stage.lease_ends()
    stage.work()
    assert stage.state() is JobState.CANCELLED
    assert stage.node.running == set()
    _cancelled(stage, ["E_CANCELLED"] * 2)


def test_a_running_job_is_ended_and_what_it_committed_stays(stage: Stage) -> None:
    stage.batch(3)
    stage.node.play = lambda spec: [
        AttemptPhase.RUNNING,
        lambda: stage.pods_work(spec, lambda tasks: tasks[:1]),
        AttemptPhase.RUNNING,
        lambda: request_cancel(stage.ledger, "b"),
        AttemptPhase.RUNNING,
    ]
    stage.work()
    assert stage.state() is JobState.CANCELLED
    assert stage.images() == ["succeeded", "cancelled", "cancelled"]
    assert stage.node.running == set()
    _cancelled(stage, ["E_CANCELLED"] * 2)
    assert len(stage.lines("results.jsonl")) == 1


def test_what_the_pod_commits_while_it_ends_counts(stage: Stage) -> None:
    """The job is settled when its pod is gone and not before."""
    stage.batch(2)

    def play(spec: AttemptSpec) -> Play:
        return [
            lambda: request_cancel(stage.ledger, "b"),
            AttemptPhase.RUNNING,
            AttemptPhase.RUNNING,
            lambda: stage.pods_work(spec, lambda tasks: tasks[:1]),
            AttemptOutcome(Code.DELETED, "asked to end"),
        ]

    stage.node.play = play
    stage.node.delete = stage.node.deleted.append  # type: ignore[method-assign,assignment]  # it takes its time
    stage.work()
    assert stage.images() == ["succeeded", "cancelled"]
    assert len(stage.node.deleted) > 1


def test_a_job_that_waits_for_its_next_attempt_is_cancelled_by_the_tick(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.jobs.retry_policy.FIRST_DELAY_S", 600.0)
    stage.batch(1)
    stage.node.play = lambda _: [AttemptOutcome(Code.ENGINE_ERROR, "boom")]
    render(stage.worker)
    assert stage.state() is JobState.RETRYING
    request_cancel(stage.ledger, "b")
    _swept(stage)
    assert stage.state() is JobState.CANCELLED
    _cancelled(stage, ["E_CANCELLED"])


def test_a_cancelled_batch_whose_jobs_were_all_done_keeps_its_pictures(stage: Stage) -> None:
    stage.batch(2)
    stage.work()
    request_cancel(stage.ledger, "b")
    _cancelled(stage, [])
    assert len(stage.lines("results.jsonl")) == 2


def test_a_large_batch_is_cancelled_in_portions_and_not_by_the_tick(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.control.cancel.JOBS_AT_A_TIME", 2)
    stage.batch(15)
    request_cancel(stage.ledger, "b")
    tick.tick(stage.worker)
    assert len(stage.ledger.jobs.unfinished("b")) == 5
    left = []
    for _ in range(3):
        cancel(stage.worker, "b")
        left.append(len(stage.ledger.jobs.unfinished("b")))
    assert left == [3, 1, 0]
    assert stage.hints().count("tessera.cancel") == 3  # the tick's, and one for each portion after the first
    _cancelled(stage, ["E_CANCELLED"] * 15)


def test_a_cancelled_batch_stays_cancelled_over_a_restart_of_everybody(stage: Stage) -> None:
    stage.batch(2)
    request_cancel(stage.ledger, "b")
    again = Stage(stage.settings)
    again.work()
    _cancelled(again, ["E_CANCELLED"] * 2)
    assert again.node.launched == []
