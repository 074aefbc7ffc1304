"""Redis comes back from before something: ticks lead to what the bucket says, and nothing is rendered twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.operations import schedules
from pipeline.operations.purge import request_purge
from pipeline.operations.retry import request_retry
from pipeline.operations.verify import verify
from pipeline.records.attempt import AttemptPhase
from pipeline.records.batch import Purge
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, JobState, is_final
from tasks.control import generation
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tasks.control.finalize import finalize
from tasks.control.fire import fire
from tasks.control.purge import purge
from tasks.control.reconcile import Reconciled, reconcile
from tasks.control.reopen import reopen
from tasks.control.tick import tick
from tasks.control.verify_ledger import verify_ledger
from tasks.process.context import Context
from tests.rollback import Snapshot
from tests.tasks.control.test_reconcile import _with_a_failure as with_a_failure
from tests.tasks.control.test_schedules import batches, history, schedule
from tests.tasks.stage import SUCCEEDED, Stage

OBJECTS = BatchObjects("b")


@pytest.fixture(autouse=True)
def _every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "BUCKET_EVERY_S", 0.0)


@contextmanager
def forgotten(stage: Stage) -> Iterator[None]:
    """What is done inside happens, ticks included, and Redis forgets it; then the ledger is verified, and all go on."""
    before = Snapshot.of(stage.settings)
    tick(stage.worker)
    yield
    before.restore()
    tick(stage.worker)
    assert stage.ledger.generations.is_in_doubt()
    verify_ledger(stage.worker)
    assert not stage.ledger.generations.is_in_doubt()
    settle(stage)


def settle(stage: Stage) -> None:
    """Do what ticks ask for until every batch has ended, or is gone."""
    for _ in range(10):
        for batch_id in stage.ledger.batches.unfinished():
            for step in (expand, reopen, cancel):
                step(stage.worker, batch_id)
            stage.work(batch_id)
            finalize(stage.worker, batch_id)
            if stage.ledger.batches.get(batch_id).manifest.purge:
                purge(stage.worker, batch_id)
    assert stage.ledger.batches.unfinished() == []


def completed(stage: Stage, images: int, batch_id: str = "b") -> None:
    """It is, with all its images, in ledger and bucket, and every attempt was launched once."""
    assert stage.batch_state(batch_id) is BatchState.COMPLETED
    assert stage.images(batch_id) == ["succeeded"] * images
    assert len(stage.lines("results.jsonl", batch_id)) == images
    assert stage.lines("errors.jsonl", batch_id) == []
    found = verify(stage.ledger, stage.artifacts, batch_id)
    assert found.ok, found.discrepancies
    assert len(set(stage.node.launched)) == len(stage.node.launched)


def run(stage: Stage) -> None:
    expand(stage.worker, "b")
    stage.work()
    stage.finalized()


def test_before_a_batch_was_submitted(stage: Stage) -> None:
    with forgotten(stage):
        stage.accepted(5)
        run(stage)
    completed(stage, 5)
    assert len(stage.node.launched) == 2


def test_before_it_was_cut(stage: Stage) -> None:
    stage.accepted(5)
    with forgotten(stage):
        run(stage)
    completed(stage, 5)
    assert len(stage.node.launched) == 2


def test_before_its_images_were_rendered(stage: Stage) -> None:
    stage.batch(5)
    with forgotten(stage):
        stage.work()
    completed(stage, 5)


def test_before_its_end(stage: Stage) -> None:
    stage.batch(5)
    stage.work()
    with forgotten(stage):
        stage.finalized()
    completed(stage, 5)
    assert len(stage.node.launched) == 2


def test_while_an_attempt_runs_that_redis_has_forgotten(stage: Stage) -> None:
    """It is adopted: the job is not begun anew beside it, and no worker claims it before."""
    stage.batch(3)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    before = Snapshot.of(stage.settings)
    tick(stage.worker)
    first = stage.new_worker("w1")
    thread = stage.in_background(first)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "the first attempt")
    first.stopping.set()
    thread.join(60)
    spec = stage.job().attempt
    assert spec is not None
    before.restore()
    tick(stage.worker)
    stage.in_background(stage.new_worker("w2"))
    verify_ledger(stage.worker)
    assert stage.ledger.batches.get("b").recovered
    expand(stage.worker, "b")
    assert stage.job().attempt == spec
    stage.node.goes_on(spec.name, [lambda: stage.pods_work(spec), SUCCEEDED])
    settle(stage)
    completed(stage, 3)
    assert stage.node.launched == [spec.name]


def test_before_a_retry_that_ended_well(stage: Stage) -> None:
    with_a_failure(stage)
    with forgotten(stage):
        code = stage.lines("errors.jsonl")[0]["code"]
        assert request_retry(stage.ledger, stage.artifacts, "b", [code]).images == 1
        reopen(stage.worker, "b")
        stage.work()
        stage.finalized()
    completed(stage, 5)


def test_in_the_middle_of_a_retry(stage: Stage) -> None:
    """Its results were taken away, and nobody remembers why: they are written again."""
    with_a_failure(stage)
    errors = stage.lines("errors.jsonl")
    with forgotten(stage):
        code = errors[0]["code"]
        assert request_retry(stage.ledger, stage.artifacts, "b", [code]).images == 1
        reopen(stage.worker, "b")
        assert stage.artifacts.head(OBJECTS.results) is None
    assert stage.batch_state() is BatchState.COMPLETED
    assert [line["index"] for line in stage.lines("errors.jsonl")] == [1]
    assert len(stage.lines("results.jsonl")) == 4
    assert verify(stage.ledger, stage.artifacts, "b").ok


@pytest.mark.parametrize("wanted", Purge)
def test_before_a_purge(stage: Stage, wanted: Purge) -> None:
    stage.batch(3)
    stage.work()
    stage.finalized()
    with forgotten(stage):
        request_purge(stage.ledger, stage.artifacts, "b", wanted)
        purge(stage.worker, "b")
        assert not stage.ledger.batches.known("b")
    assert not stage.ledger.batches.known("b")


def test_before_a_purge_that_nobody_has_begun(stage: Stage) -> None:
    """Only its batch.json says so: the marker and all objects are there."""
    stage.batch(3)
    stage.work()
    stage.finalized()
    with forgotten(stage):
        request_purge(stage.ledger, stage.artifacts, "b", Purge.EVERYTHING)
    assert not stage.ledger.batches.known("b")
    assert list(stage.artifacts.list(OBJECTS.root)) == []


def test_in_the_middle_of_a_purge(stage: Stage) -> None:
    stage.batch(3)
    stage.work()
    stage.finalized()
    with forgotten(stage):
        request_purge(stage.ledger, stage.artifacts, "b", Purge.EVERYTHING)
        stage.artifacts.delete(OBJECTS.marker(BatchState.COMPLETED))
        stage.artifacts.delete(OBJECTS.results)
    assert not stage.ledger.batches.known("b")
    assert list(stage.artifacts.list(OBJECTS.root)) == []


def test_before_a_firing(stage: Stage) -> None:
    schedule(stage)
    with forgotten(stage):
        fire(stage.worker, "nightly")
        (batch_id,) = batches(stage)
        expand(stage.worker, batch_id)
        stage.work(batch_id)
        stage.finalized(batch_id)
    fire(stage.worker, "nightly")
    assert batches(stage) == [batch_id]
    assert [firing.id for firing in history(stage)] == [batch_id]
    completed(stage, 3, batch_id)


def test_before_a_firing_whose_batch_was_purged_since(stage: Stage) -> None:
    schedule(stage)
    with forgotten(stage):
        fire(stage.worker, "nightly")
        (batch_id,) = batches(stage)
        expand(stage.worker, batch_id)
        stage.work(batch_id)
        stage.finalized(batch_id)
        request_purge(stage.ledger, stage.artifacts, batch_id, Purge.EVERYTHING)
        purge(stage.worker, batch_id)
    fire(stage.worker, "nightly")
    assert batches(stage) == []
    assert [firing.id for firing in history(stage)] == [batch_id]


def test_before_a_schedule_was_added_paused_and_removed(stage: Stage) -> None:
    for name in ("paused", "removed"):
        schedule(stage, name)
    with forgotten(stage):
        schedule(stage, "added")
        schedules.pause(stage.ledger, stage.artifacts, "paused")
        schedules.remove(stage.ledger, stage.artifacts, "removed")
    assert stage.ledger.schedules.names() == ["added", "paused"]
    paused = stage.ledger.schedules.get("paused")
    assert paused is not None
    assert paused.paused


def test_a_batch_that_our_own_program_fails_over_does_not_keep_the_ledger_in_doubt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.accepted(2, "bad")

    def broken(context: Context, batch_id: str) -> Reconciled:
        if batch_id == "bad":
            raise ZeroDivisionError
        return reconcile(context, batch_id)

    monkeypatch.setattr("tasks.control.verify_ledger.reconcile", broken)
    stage.batch(5)
    with forgotten(stage):
        stage.work()
    completed(stage, 5)
    assert is_final(stage.batch_state("bad"))  # it goes on as before


def test_an_ended_batch_that_nothing_happened_to_is_left_alone(stage: Stage) -> None:
    stage.batch(3)
    stage.work()
    stage.finalized()
    record = stage.ledger.batches.get("b")
    with forgotten(stage):
        stage.accepted(2, "later")
    assert stage.ledger.batches.get("b") == record
    assert is_final(stage.batch_state("later"))
