"""Workers that stop, die or lose their lease in the middle of a job; another goes on from what is written."""

from __future__ import annotations

import pytest

from pipeline.errors import ClaimRefused
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code
from pipeline.states import JobState
from tasks.app import render
from tasks.jobs.run_job import run_job
from tests.tasks.node import Killed, Play
from tests.tasks.stage import SUCCEEDED, Stage


def _dies_at(stage: Stage, point: str) -> None:
    """A worker is killed in the middle of the first job, and its lease runs out."""
    stage.node.kills.add(point)
    dying = stage.new_worker("dying", lease_s=600.0)
    with pytest.raises(Killed):
        render(dying)
    if stage.ledger.jobs.held("b/00000"):
        stage.lease_ends()
    else:
        assert stage.state() in (JobState.SUCCEEDED, JobState.RETRYING)


def test_a_worker_that_stops_hands_over_at_once_and_another_adopts_without_a_second_launch(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    stopping = stage.new_worker("stopping", lease_s=600.0)
    thread = stage.in_background(stopping)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a running job")
    stopping.stopping.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not stage.ledger.jobs.held("b/00000")
    assert stage.ledger.leases.backlog() == 1
    [name] = stage.node.running  # left alone
    adopting = stage.new_worker("adopting")
    stage.in_background(adopting)
    stage.soon(lambda: stage.ledger.jobs.held("b/00000"), "the adoption")
    spec = stage.job().attempt
    assert spec is not None
    stage.pods_work(spec)
    stage.node._left[name][:] = [SUCCEEDED]
    stage.soon(lambda: stage.state() is JobState.SUCCEEDED, "the end")
    assert stage.node.launched == [name]


def test_a_worker_killed_between_record_and_launch_leaves_an_attempt_that_the_next_launches(stage: Stage) -> None:
    stage.batch(1)
    _dies_at(stage, "before launch")
    recorded = stage.job().attempt
    assert (stage.state(), stage.job().confirmed, stage.node.running) == (JobState.LAUNCHING, False, set())
    stage.work(worker=stage.new_worker("w2", exact=True))
    assert stage.job().attempt == recorded  # the one on record, not one by the next worker's settings
    assert len(stage.node.launched) == 1
    assert (stage.state(), stage.job().spent) == (JobState.SUCCEEDED, 0)


def test_a_worker_killed_between_launch_and_confirmation_leaves_an_attempt_that_the_next_adopts(stage: Stage) -> None:
    stage.batch(1)
    _dies_at(stage, "after launch")
    assert (stage.job().confirmed, len(stage.node.running)) == (False, 1)
    stage.work()
    assert len(stage.node.launched) == 1
    assert (stage.state(), stage.job().spent) == (JobState.SUCCEEDED, 0)


def test_an_unconfirmed_attempt_that_came_and_went_is_never_created_again(stage: Stage) -> None:
    stage.batch(1)
    _dies_at(stage, "after launch")
    [name] = stage.node.launched
    stage.node.vanish(name)
    stage.work()
    assert stage.node.launched == [name, name.removesuffix("1") + "2"]
    assert [end.code for end in stage.job().ended] == [Code.UNKNOWN, Code.SUCCEEDED]


def test_an_unconfirmed_attempt_whose_pod_has_begun_is_never_created_again(stage: Stage) -> None:
    """A cluster forgets a name with its Job; the ledger remembers that a pod has come with the attempt's token."""
    stage.batch(1)
    stage.node.forgets = True
    _dies_at(stage, "after launch")
    [name] = stage.node.launched
    spec = stage.job().attempt
    assert spec is not None
    assert stage.pod(spec).register() is None
    stage.node.vanish(name)
    stage.work()
    assert stage.node.launched == [name, name.removesuffix("1") + "2"]
    assert [end.code for end in stage.job().ended] == [Code.DELETED, Code.SUCCEEDED]


def test_an_unconfirmed_attempt_that_went_before_its_pod_began_has_one_pod_that_renders(stage: Stage) -> None:
    """Created again under its name, it may have two pods for a while: the claim is given to one."""
    stage.batch(1)
    stage.node.forgets = True
    _dies_at(stage, "after launch")
    [name] = stage.node.launched
    spec = stage.job().attempt
    assert spec is not None
    stage.node.vanish(name)
    left_over = stage.pod(spec, "left over")  # its Job is gone, and it has not begun yet

    def second(spec: AttemptSpec) -> Play:
        def begins() -> None:
            stage.pods_work(spec)
            assert left_over.register() == "another pod has registered for this attempt"
            with pytest.raises(ClaimRefused):
                left_over.start(left_over.tasks)

        return [begins, SUCCEEDED]

    stage.node.play = second
    stage.work()
    assert stage.node.launched == [name, name]
    assert [end.code for end in stage.job().ended] == [Code.SUCCEEDED]


@pytest.mark.parametrize("ended", [SUCCEEDED, AttemptOutcome(Code.ENGINE_ERROR, "boom")])
def test_a_worker_killed_after_settling_leaves_an_attempt_that_is_not_counted_twice(
    stage: Stage, ended: AttemptOutcome
) -> None:
    stage.batch(1)
    stage.node.play = lambda spec: (
        [lambda: stage.pods_work(spec), SUCCEEDED] if spec.number == 2 or ended is SUCCEEDED else [ended]
    )
    _dies_at(stage, "before delete")
    stage.work()
    assert stage.state() is JobState.SUCCEEDED
    assert len(stage.job().ended) == (1 if ended is SUCCEEDED else 2)


def test_a_worker_that_lost_its_lease_leaves_the_job_and_its_pod_to_the_next(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    slow = stage.ledger.leases.claim("slow", 0.1)
    assert slow is not None
    stage.soon(lambda: stage.ledger.leases.promote()[0], "the lease's end")
    stage.in_background(stage.new_worker("w2"))
    stage.soon(lambda: stage.state() is JobState.RUNNING, "another's work")
    before = stage.job()
    run_job(stage.worker, slow)  # returns by itself
    assert stage.job() == before
    assert stage.node.deleted == []


def test_a_job_that_failed_and_was_not_written_as_failed_is_not_a_success_the_second_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failures lie in the bucket when the next worker settles it; they are outcomes, but no success."""
    stage.batch(2)
    boom = AttemptOutcome(Code.CONFIG_ERROR, "no such model")
    stage.node.play = lambda _: [boom]

    def killed(*_: object, **__: object) -> None:
        raise Killed("before the job was written")

    with monkeypatch.context() as patched:
        patched.setattr("tasks.jobs.finish_attempt.record_outcomes", killed)
        with pytest.raises(Killed):
            render(stage.new_worker("dying", lease_s=600.0))
    assert stage.state() is JobState.LAUNCHING
    stage.lease_ends()
    stage.work()
    assert stage.state() is JobState.FAILED
    assert stage.images() == ["failed", "failed"]
    stage.finalized()
    assert {line["code"] for line in stage.lines("errors.jsonl")} == {"E_ATTEMPTS_EXHAUSTED"}


def test_a_second_pod_of_an_attempt_and_a_pod_of_an_older_one_are_refused(stage: Stage) -> None:
    stage.batch(1)
    specs: list[AttemptSpec] = []

    def play(spec: AttemptSpec) -> Play:
        specs.append(spec)
        return (
            [lambda: stage.pod(spec).register(), AttemptOutcome(Code.NODE_LOST, "gone")]
            if len(specs) == 1
            else [AttemptPhase.RUNNING]
        )

    stage.node.play = play
    stage.in_background(stage.new_worker("w"))
    stage.soon(lambda: len(specs) == 1 and stage.state() is JobState.RETRYING, "the end of the first attempt")
    stage.soon(lambda: stage.ledger.leases.promote() and stage.ledger.leases.backlog(), "the delay's end")
    stage.in_background(stage.new_worker("w"))
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a second attempt")
    assert stage.pod(specs[0]).register() == "attempt 1 is not the one on record (2)"
    assert stage.pod(specs[1]).register() is None
    assert stage.pod(specs[1], uid="another").register() == "another pod has registered for this attempt"
