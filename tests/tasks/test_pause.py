"""A paused batch: what is being rendered finishes, the GPUs are free, and later it goes on as if nothing had been."""

from __future__ import annotations

import pytest

from pipeline.operations.cancel import request_cancel
from pipeline.operations.pause import request_pause, request_unpause
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code
from pipeline.states import BatchState, JobState
from tasks.app import render
from tasks.control import tick
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tests.tasks.node import Killed, Play
from tests.tasks.stage import SUCCEEDED, Stage

STOPPED = AttemptOutcome(Code.PAUSED, "the batch is paused", exit_code=1)


def test_a_pod_stops_between_two_images_and_another_goes_on_with_the_rest(stage: Stage) -> None:
    stage.batch(3)

    def play(spec: AttemptSpec) -> Play:
        def first() -> AttemptOutcome:
            pod = stage.pod(spec)
            pod.register()
            pod.start(pod.tasks[:1])
            request_pause(stage.ledger, "b")
            pod.commit(pod.tasks[:1])
            return STOPPED

        def rest() -> AttemptOutcome:
            pod = stage.pod(spec)
            pod.register()
            pod.commit(pod.left())
            return SUCCEEDED

        return [AttemptPhase.RUNNING, first if spec.number == 1 else rest, SUCCEEDED]

    stage.node.play = play
    render(stage.worker)
    stage.ledger.leases.promote()
    render(stage.worker)
    assert (stage.state(), stage.batch_state()) == (JobState.RETRYING, BatchState.PAUSED)
    assert (stage.job().spent, stage.job().disrupted) == (0, 0)
    assert stage.images() == ["succeeded", "queued", "queued"]
    assert stage.node.running == set()
    again = Stage(stage.settings)  # everybody is started anew
    again.node = stage.node
    again.worker = again.new_worker("w9")
    tick.tick(again.worker)
    render(again.worker)
    assert len(stage.node.launched) == 1
    assert request_unpause(again.ledger, "b") is BatchState.IN_PROGRESS
    tick.tick(again.worker)
    again.work()
    again.finalized()
    assert again.images() == ["succeeded"] * 3
    assert [line["provenance"]["attempt"] for line in again.lines("results.jsonl")] == [1, 2, 2]


def test_waiting_jobs_of_a_paused_batch_do_not_stand_in_the_way_of_others(stage: Stage) -> None:
    stage.batch(9, "b")
    stage.batch(2, "later")
    request_pause(stage.ledger, "b")
    render(stage.worker)
    assert not stage.ledger.jobs.unfinished("later")
    assert stage.ledger.leases.backlog() == 0
    assert stage.images() == ["queued"] * 9
    tick.tick(stage.worker)
    assert stage.ledger.leases.backlog() == 0
    request_unpause(stage.ledger, "b")
    tick.tick(stage.worker)
    assert stage.ledger.leases.backlog() == 3
    stage.work()
    assert stage.images() == ["succeeded"] * 9


@pytest.mark.parametrize("phase", [AttemptPhase.PENDING, AttemptPhase.WAITING_QUOTA])
def test_an_attempt_that_has_not_begun_is_ended(stage: Stage, phase: AttemptPhase) -> None:
    stage.batch(2)
    stage.node.play = lambda spec: (
        [phase, lambda: request_pause(stage.ledger, "b"), phase] if spec.number == 1 else stage.all_well(spec)
    )
    render(stage.worker)
    assert (stage.state(), stage.node.running) == (JobState.RETRYING, set())
    assert (stage.job().spent, stage.job().disrupted, stage.job().ended[0].code) == (0, 0, Code.PAUSED)
    request_unpause(stage.ledger, "b")
    tick.tick(stage.worker)
    stage.work()
    assert stage.images() == ["succeeded"] * 2


def test_a_job_whose_worker_dies_while_its_batch_is_paused_is_still_looked_after(stage: Stage) -> None:
    stage.batch(2)
    stage.node.play = lambda spec: [AttemptPhase.RUNNING, lambda: stage.pods_work(spec), SUCCEEDED]
    stage.node.kills.add("after launch")
    with pytest.raises(Killed):
        render(stage.new_worker("dying", lease_s=600.0))
    request_pause(stage.ledger, "b")
    stage.lease_ends()
    stage.work()
    assert stage.images() == ["succeeded"] * 2
    stage.finalized()  # its last images were the ones that were to finish
    assert stage.batch_state() is BatchState.COMPLETED


def test_a_batch_paused_before_it_was_cut_is_cut_when_it_goes_on(stage: Stage) -> None:
    stage.accepted(2)
    request_pause(stage.ledger, "b")
    expand(stage.worker, "b")
    tick.tick(stage.worker)
    assert "tessera.expand" not in stage.hints()
    assert request_unpause(stage.ledger, "b") is BatchState.VALIDATING
    expand(stage.worker, "b")
    stage.work()
    assert stage.images() == ["succeeded"] * 2


def test_a_paused_batch_can_be_cancelled(stage: Stage) -> None:
    stage.batch(5)
    request_pause(stage.ledger, "b")
    render(stage.worker)
    request_cancel(stage.ledger, "b")
    cancel(stage.worker, "b")
    stage.finalized()
    assert stage.batch_state() is BatchState.CANCELLED
    assert stage.images() == ["cancelled"] * 5
    render(stage.worker)
    assert stage.node.launched == []


def test_what_is_over_is_not_paused_and_what_is_not_paused_goes_on_as_it_does(stage: Stage) -> None:
    stage.batch(1)
    assert request_unpause(stage.ledger, "b") is BatchState.IN_PROGRESS
    stage.work()
    stage.finalized()
    assert request_pause(stage.ledger, "b") is BatchState.COMPLETED
    assert request_unpause(stage.ledger, "b") is BatchState.COMPLETED
