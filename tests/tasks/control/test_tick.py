"""The controller's tick mends whatever stands still, and one broken batch does not keep it from the others."""

from __future__ import annotations

import threading

import pytest

from pipeline.deployment.broker import EXPAND, RENDER, REOPEN
from pipeline.deployment.settings import LoraSource
from pipeline.operations.cancel import request_cancel
from pipeline.operations.retry import request_retry
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, Code
from pipeline.records.listed_files import LISTED_FILES, ListedFiles
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, JobState
from tasks.app import register
from tasks.control import tick
from tasks.control.expand import expand
from tasks.jobs.images import job_images
from tasks.jobs.shards import ShardLost
from tasks.worker import _report
from tests.factories import attempt_spec, job_record
from tests.tasks.stage import Stage


def test_a_tick_asks_for_the_expansion_of_a_batch_whose_message_was_lost(stage: Stage) -> None:
    stage.accepted(1)
    tick.tick(stage.worker)
    assert stage.hints() == ["tessera.expand"]


def test_a_tick_asks_for_the_results_of_a_batch_whose_jobs_are_over(stage: Stage) -> None:
    stage.batch(1)
    stage.work()
    stage.ledger.store.redis.delete(f"{stage.settings.redis_prefix}:celery:{stage.settings.redis_prefix}.control")
    tick.tick(stage.worker)
    assert stage.hints() == ["tessera.finalize"]


@pytest.mark.parametrize(("free", "jobs", "hints"), [(0, 2, 0), (1, 2, 1), (5, 2, 2), (3, 0, 0)])
def test_as_many_hints_are_given_as_there_are_free_slots_and_jobs(
    stage: Stage, free: int, jobs: int, hints: int
) -> None:
    if jobs:
        stage.batch(3 * jobs)
    stage.ledger.workers.report("w1", free)
    tick.publish_hints(stage.worker)
    assert stage.hints() == ["tessera.render"] * hints


def test_a_tick_offers_a_job_whose_worker_is_silent(stage: Stage) -> None:
    stage.batch(1)
    stage.ledger.workers.report("w1", 1)
    assert stage.ledger.leases.claim("dead", 0.05) is not None

    def hinted() -> list[str]:
        tick.tick(stage.worker)
        return stage.hints()

    stage.soon(hinted, "a hint")
    assert stage.ledger.leases.backlog() == 1


def test_two_ticks_at_once_are_one(stage: Stage) -> None:
    stage.accepted(1)
    inside, go_on = threading.Event(), threading.Event()

    def waits() -> dict[str, object]:
        inside.set()
        go_on.wait(60)
        return {}

    stage.node.observe = waits  # type: ignore[method-assign,assignment]
    first = threading.Thread(target=tick.tick, args=(stage.worker,))
    first.start()
    assert inside.wait(60)
    before = stage.hints()
    tick.tick(stage.new_worker("w2"))
    assert stage.hints() == before
    go_on.set()
    first.join(60)
    assert not first.is_alive()


def test_attempts_that_no_job_has_on_record_are_deleted_and_the_others_left_alone(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    worker = stage.new_worker("w2")
    stage.in_background(worker)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a running job")
    [current] = stage.node.running
    job = stage.job()
    older = attempt_spec(job.model_copy(update={"incarnation": "00000000"}), 7)
    of_no_job = attempt_spec(job_record("b", 9), 1)
    of_no_batch = attempt_spec(job_record("lost", 0, incarnation="99999999"), 1)
    for spec in (older, of_no_job, of_no_batch):
        stage.node.put(spec)
    tick.delete_orphans(stage.worker)
    assert stage.node.running == {current, of_no_batch.name}


def test_the_attempt_of_a_batch_that_ended_before_it_was_forgotten_is_an_orphan(stage: Stage) -> None:
    """An emptied Redis takes no batch up again that is over: nobody else would ever end its pod."""
    stage.batch(1)
    stage.work()
    stage.finalized()
    spec = stage.job().attempt
    assert spec is not None
    stage.node.put(spec)
    stage.ledger.store.redis.flushall()
    tick.delete_orphans(stage.worker)
    assert stage.node.running == set()


def test_the_attempt_of_a_batch_that_failed_before_it_had_jobs_again_is_an_orphan(stage: Stage) -> None:
    """Its ledger was emptied, and its rows were gone when it was rebuilt."""
    stage.batch(1)
    stage.node.put(attempt_spec(stage.job(), 1))
    running = set(stage.node.running)
    stage.ledger.store.redis.flushall()
    tick.recover_batches(stage.worker)
    tick.delete_orphans(stage.worker)
    assert stage.node.running == running, "it may be the attempt of a job that is to be found again"
    objects = BatchObjects("b")
    stage.artifacts.delete_all([key for key in stage.artifacts.list(objects.root) if key != objects.manifest])
    expand(stage.worker, "b")
    assert (stage.batch_state(), stage.ledger.batches.get("b").jobs) == (BatchState.FAILED, None)
    tick.delete_orphans(stage.worker)
    assert stage.node.running == set()


def test_the_attempt_of_a_job_that_is_over_is_an_orphan(stage: Stage) -> None:
    stage.batch(1)
    stage.work()
    spec = stage.job().attempt
    assert spec is not None
    stage.node.put(spec)
    tick.delete_orphans(stage.worker)
    assert stage.node.running == set()


def test_a_batch_that_was_accepted_and_never_recorded_is_found_in_the_bucket(stage: Stage) -> None:
    stage.accepted(2)
    first = stage.ledger.batches.get("b").manifest
    _forget(stage)
    stage.artifacts.put("batches/staged/staged/t/input.jsonl", b"{}\n", content_type="text/plain")
    tick.recover_batches(stage.worker)
    found = stage.ledger.batches.get("b").manifest
    assert found == first.model_copy(update={"incarnation": found.incarnation})
    assert found.incarnation != first.incarnation
    assert stage.ledger.batches.unfinished() == ["b"]


def test_a_batch_that_is_over_is_not_taken_up_again_by_an_emptied_ledger(stage: Stage) -> None:
    stage.batch(4)
    stage.work()
    stage.finalized()
    _forget(stage)
    tick.recover_batches(stage.worker)
    assert not stage.ledger.batches.known("b")


def test_a_batch_json_that_cannot_be_read_does_not_hide_the_batches_after_it(stage: Stage) -> None:
    stage.accepted(1)
    _forget(stage)
    stage.artifacts.put("batches/a/batch.json", b"not json", content_type="text/plain")
    tick.recover_batches(stage.worker)
    assert stage.ledger.batches.unfinished() == ["b"]


def test_a_batch_that_cannot_be_pushed_does_not_keep_the_tick_from_the_others(stage: Stage) -> None:
    stage.batch(1, "a")
    stage.batch(1, "b")
    stage.accepted(1, "c")
    stage.ledger.workers.report("w1", 2)
    request_cancel(stage.ledger, "a")
    _lose(stage, BatchObjects("a").shard(0))
    tick.tick(stage.worker)
    assert {"tessera.render", "tessera.expand"} <= set(stage.hints())


def test_an_outage_of_the_launcher_does_not_keep_the_tick_from_offering_work(stage: Stage) -> None:
    stage.batch(1)
    stage.ledger.workers.report("w1", 1)
    stage.node.outage = 99
    tick.tick(stage.worker)
    assert stage.hints() == ["tessera.render"]


def test_a_tick_tells_clients_what_is_rendered_here(stage: Stage) -> None:
    _forget(stage)
    tick.tick(stage.worker)
    assert str(stage.ledger.deployment().layout) == "1x1x2"


def _forget(stage: Stage) -> None:
    """Redis comes back empty."""
    for key in stage.ledger.store.redis.scan_iter(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)


def _lose(stage: Stage, key: str) -> None:
    """An object is gone from the bucket, and the rows of its batch too."""
    stage.artifacts.delete(key)
    stage.artifacts.delete(BatchObjects("a").input(stage.ledger.batches.get("a").manifest.staged))
    with pytest.raises(ShardLost):
        job_images(stage.worker, stage.job(0, "a"))


@pytest.mark.parametrize("task", [EXPAND, REOPEN])
def test_workers_are_called_as_soon_as_jobs_are_queued_and_not_at_the_next_tick(stage: Stage, task: str) -> None:
    stage.accepted(4)
    if task == REOPEN:
        expand(stage.worker, "b")
        stage.node.play = lambda _: [AttemptOutcome(Code.CONFIG_ERROR, "no such model", exit_code=78)]
        stage.work()
        stage.finalized()
        request_retry(stage.ledger, stage.artifacts, "b")
    stage.ledger.workers.report("w1", 3)
    register(stage.worker.app, stage.worker)
    stage.worker.app.tasks[task]("b")
    assert stage.ledger.leases.backlog() == 2
    assert stage.hints().count(RENDER) == 2


def test_a_slot_that_has_become_free_is_told_of_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.worker.REPORT_S", 600.0)
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    working = stage.in_background(stage.worker)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a running job")
    reporting = threading.Thread(target=_report, args=(stage.worker,), daemon=True)
    reporting.start()
    free = stage.ledger.workers.free_slots
    stage.soon(lambda: free() == {"w1": stage.settings.worker_slots - 1}, "a report")
    [name] = stage.node.running
    stage.node.vanish(name)
    stage.node.play = stage.all_well
    stage.soon(lambda: free() == {"w1": stage.settings.worker_slots}, "another report")
    stage.worker.stopping.set()
    stage.worker.slots.freed.set()
    for thread in (working, reporting):
        thread.join(60)
        assert not thread.is_alive()
    assert free() == {}


def test_a_cluster_s_loras_have_the_bases_that_their_warm_up_left(stage: Stage) -> None:
    listed = {"old": LoraSource(path="/models/old.safetensors", sha256="a" * 64)}
    worker = stage.new_worker("w2", launcher="kubernetes", loras=listed)
    tick.announce(worker)
    assert stage.ledger.deployment().loras["old"].base is None
    left = ListedFiles(bases={"a" * 64: "SD 1.x", "b" * 64: "Flux"}).model_dump_json().encode()
    stage.artifacts.put(LISTED_FILES, left, content_type="application/json")
    tick.announce(worker)  # a look within the minute asks nobody
    assert stage.ledger.deployment().loras["old"].base is None
    worker = stage.new_worker("w3", launcher="kubernetes", loras=listed)
    tick.announce(worker)
    assert stage.ledger.deployment().loras["old"].refusal == "was made for SD 1.x, not for SDXL"
    stage.artifacts.put(LISTED_FILES, b"{", content_type="application/json")
    tick.announce(stage.new_worker("w4", launcher="kubernetes", loras=listed))
    assert stage.ledger.deployment().loras["old"].base is None
