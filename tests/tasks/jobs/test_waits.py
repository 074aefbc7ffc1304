"""A job that waits holds no slot and says why; one that can never go on ends; neither spends an attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import ClaimRefused, ServiceError
from pipeline.operations.cancel import request_cancel
from pipeline.operations.status import batch_status, jobs_status
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code, PodReport
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState, JobState
from tasks.app import render
from tasks.control import tick
from tasks.control.cancel import cancel
from tasks.control.tick import delete_orphans
from tasks.jobs import run_job as run_job_module
from tests.factories import MODELS
from tests.faults.s3_wire import S3Wire
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage
from tests.tasks.test_versions import newer, rewrite

SHARD = BatchObjects("b").shard(0)


@pytest.fixture
def wire(settings: Settings) -> Iterator[S3Wire]:
    one = S3Wire(settings.s3_endpoint or "")
    yield one
    one.close()


@pytest.fixture
def wired(settings: Settings, wire: S3Wire) -> Iterator[Stage]:
    """A deployment whose bucket lies behind the wire."""
    changes: dict[str, Any] = {"models": MODELS, "images_per_job": 1, "observe_s": 0.02, "lease_s": 5.0}
    stage = Stage(load_settings(settings.environment(), **changes | {"s3_endpoint": wire.endpoint}))
    yield stage
    stage.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.jobs.outage.FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("pipeline.process.backoff.LONGEST_S", 0.2)
    for module in ("advance_job", "mend_job"):
        monkeypatch.setattr(f"tasks.jobs.{module}.FENCE_S", 0.2)
    monkeypatch.setattr("tasks.control.cancel.FENCE_S", 0.2)


def _work(stage: Stage, over: Callable[[], bool]) -> None:
    """One worker with one slot takes what it is given until this is true."""

    def works() -> bool:
        render(stage.worker)
        return over()

    stage.soon(works, "the end of the work")


def _rendered(stage: Stage) -> bool:
    return not stage.ledger.jobs.any_unfinished("b")


def test_jobs_whose_shards_cannot_be_read_leave_their_slots_to_others(wired: Stage, wire: S3Wire) -> None:
    wired.batch(6, "gone", priority=0)
    wired.batch(2, "other", tenant="another")
    with wire.breaking(key="batches/gone/shards/", status=403) as rule:
        _work(wired, lambda: not wired.ledger.jobs.any_unfinished("other"))
        _work(wired, lambda: rule.hits >= 6 and len(jobs_status(wired.ledger, "gone")) == 6)
        waiting = jobs_status(wired.ledger, "gone")
        assert all("refuses our credentials" in job.detail and job.attempt == 0 for job in waiting)
    _work(wired, lambda: not wired.ledger.jobs.any_unfinished("gone"))
    assert wired.images("gone") == ["succeeded"] * 6
    assert all(len(wired.job(index, "gone").ended) == 1 for index in range(6))
    assert wired.job(0, "gone").wait is None


@pytest.mark.parametrize("late_s", [12.0, 60.0])
def test_a_list_that_is_late_costs_no_attempt(wired: Stage, wire: S3Wire, late_s: float) -> None:
    wire.list_late_s = late_s
    wired.batch(3)
    wired.work()
    assert wired.images() == ["succeeded"] * 3
    assert len(wired.node.launched) == 3


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "broken": lambda body: body.replace(b'"row"', b"'row'", 1),
    "empty": lambda _: b"",
    "short": lambda body: body[: body.rindex(b"\n", 0, -1) + 1],
    "foreign": lambda _: b"\x00\xff" * 50,
}


def _damage(stage: Stage, key: str, change: Callable[[bytes], bytes | None]) -> None:
    changed = change(stage.artifacts.get(key) or b"")
    if changed is None:
        stage.artifacts.delete(key)
    else:
        stage.artifacts.put(key, changed, content_type="application/x-ndjson")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_made_again_before_a_pod_is_launched(
    stage: Stage, damage: Callable[[bytes], bytes | None]
) -> None:
    stage.batch(3)
    _damage(stage, SHARD, damage)
    stage.work()
    assert (stage.images(), stage.job().spent, len(stage.node.launched)) == (["succeeded"] * 3, 0, 1)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_batch_whose_shard_and_rows_are_lost_is_cancelled_all_the_same(
    stage: Stage, damage: Callable[[bytes], bytes | None]
) -> None:
    stage.batch(5)
    stage.artifacts.delete(BatchObjects("b").input(stage.ledger.batches.get("b").manifest.staged))
    _damage(stage, SHARD, damage)
    request_cancel(stage.ledger, "b")
    cancel(stage.worker, "b")
    assert not stage.ledger.jobs.any_unfinished("b")
    assert stage.images()[3:] == ["cancelled"] * 2


def _rows_of_the_future(stage: Stage) -> None:
    """A shard that only a later version reads."""

    def of_the_future(line: dict[str, Any]) -> dict[str, Any]:
        return line | {"row": newer(2)(line["row"])}

    lines = [rewrite(line, of_the_future).encode() + b"\n" for line in stage.artifacts.lines(SHARD)]
    stage.artifacts.put(SHARD, b"".join(lines), content_type="application/x-ndjson")


def test_a_job_that_nobody_here_can_read_waits_for_a_version_that_can(stage: Stage) -> None:
    stage.batch(1)
    good = stage.artifacts.get(SHARD) or b""
    _rows_of_the_future(stage)
    _work(stage, lambda: stage.job().wait is not None)
    assert "schema version 3 found" in jobs_status(stage.ledger, "b")[0].detail
    stage.artifacts.put(SHARD, good, content_type="application/x-ndjson")
    _work(stage, lambda: stage.images() == ["succeeded"])
    assert (stage.job().spent, len(stage.node.launched)) == (0, 1)


def test_a_job_that_nobody_here_can_read_for_long_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_job_module, "READABLE_WITHIN_S", 0.0)
    stage.batch(4)
    _rows_of_the_future(stage)
    stage.work()
    assert (stage.state(0), stage.state(1)) == (JobState.FAILED, JobState.SUCCEEDED)


def _runs(stage: Stage) -> AttemptSpec:
    """A job that is running, in the hands of a worker in the background."""
    stage.batch(2)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    stage.in_background(stage.worker)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a running job")
    spec = stage.job().attempt
    assert spec is not None
    assert stage.pod(spec, "uid").register() is None
    return spec


def _refused(stage: Stage, spec: AttemptSpec) -> None:
    assert stage.pod(spec, "uid").register() is not None


def _cancelled(stage: Stage) -> None:
    """The controller cancels until no job is left."""

    def over() -> bool:
        cancel(stage.worker, "b")
        return not stage.ledger.jobs.any_unfinished("b")

    stage.soon(over, "the end of all jobs")


def test_a_batch_ends_although_the_cluster_is_away_and_its_pod_is_deleted_later(stage: Stage) -> None:
    spec = _runs(stage)
    stage.node.outage = 10**6
    request_cancel(stage.ledger, "b")
    _cancelled(stage)
    _refused(stage, spec)
    assert stage.node.running == {spec.name}
    stage.node.outage = 0
    delete_orphans(stage.worker)
    assert stage.node.running == set()


@pytest.mark.parametrize("how", ["refused", "without effect"])
def test_a_batch_ends_although_its_pod_does_not(stage: Stage, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    spec = _runs(stage)
    monkeypatch.setattr("tasks.jobs.advance_job.PODS_END_WITHIN_S", 0.3)

    def delete(_: str) -> None:
        if how == "refused":
            raise ServiceError("jobs.batch is forbidden")

    monkeypatch.setattr(stage.node, "delete", delete)
    request_cancel(stage.ledger, "b")
    _cancelled(stage)
    _refused(stage, spec)


def test_an_outage_of_the_cluster_leaves_a_running_pod_its_slot_and_says_so(stage: Stage) -> None:
    _runs(stage)
    stage.node.outage = 10**6
    stage.soon(lambda: "does not answer" in jobs_status(stage.ledger, "b")[0].detail, "the reason of the wait")
    assert stage.ledger.jobs.held("b/00000")
    assert stage.state() is JobState.RUNNING
    stage.node.outage = 0
    stage.soon(lambda: stage.job().wait is None, "the end of the wait")


def test_a_worker_that_waits_for_an_outage_stops_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_job_module, "OUTAGE_PAUSE_S", 600.0)
    monkeypatch.setattr("pipeline.process.backoff.LONGEST_S", 600.0)
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    worker = stage.new_worker("w2")
    thread = stage.in_background(worker)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a running job")
    stage.node.outage = 10**6
    stage.soon(lambda: stage.job().wait is not None, "the wait")
    worker.stopping.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not stage.ledger.jobs.held("b/00000")


def test_giving_up_succeeds_whatever_keeps_it_from_looking(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("tasks.jobs.advance_job.job_images", broken)
    monkeypatch.setattr("tasks.jobs.finish_attempt.known_outcomes", broken)
    stage.batch(1)
    stage.work()
    assert stage.state() is JobState.FAILED
    assert stage.job().detail.startswith("RuntimeError: boom (3 times")


RECORDS: dict[str, Callable[[Stage, str], object]] = {
    "broken": lambda stage, key: stage.ledger.store.redis.hset(key, "record", '{"state": "que'),
    "another kind": lambda stage, key: stage.ledger.store.redis.hset(key, "record", "[]"),
    "missing": lambda stage, key: stage.ledger.store.redis.hdel(key, "record"),
}


@pytest.fixture
def damaged_record(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.ledger.leases", "tasks.jobs.run_job"):
        monkeypatch.setattr(f"{module}.UNREADABLE_DELAY_S", 0.05)


@pytest.mark.usefixtures("damaged_record")
@pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS)
def test_a_job_whose_record_is_damaged_gets_another_and_is_rendered(
    stage: Stage, damage: Callable[[Stage, str], object]
) -> None:
    stage.batch(5)
    damage(stage, stage.ledger.store.keys.job("b/00000"))
    _work(stage, lambda: _rendered(stage))
    assert stage.images() == ["succeeded"] * 5
    assert stage.ledger.batches.counts("b").jobs[JobState.SUCCEEDED] == 2


@pytest.mark.usefixtures("damaged_record")
def test_a_job_whose_record_is_damaged_in_mid_render_goes_on_with_its_next_attempt(stage: Stage) -> None:
    stage.batch(2)
    key = stage.ledger.store.keys.job("b/00000")
    first: list[AttemptSpec] = []

    def play(spec: AttemptSpec) -> Play:
        def damage() -> None:
            if not first:
                first.append(spec)
                assert stage.pod(spec, "uid").register() is None
                stage.pod(spec, "uid").commit(stage.pod(spec).tasks[:1])
                stage.ledger.store.redis.hset(key, "record", "[]")

        return [AttemptPhase.RUNNING, damage, AttemptPhase.RUNNING] if not first else stage.all_well(spec)

    stage.node.play = play
    _work(stage, lambda: _rendered(stage))
    assert stage.images() == ["succeeded"] * 2
    assert [name[-1] for name in stage.node.launched] == ["1", "2"]
    _refused(stage, first[0])


@pytest.mark.parametrize("damage", [*RECORDS.values(), lambda stage, key: stage.ledger.store.redis.delete(key)])
def test_a_batch_with_a_job_whose_record_cannot_be_read_is_cancelled(
    stage: Stage, damage: Callable[[Stage, str], object]
) -> None:
    stage.batch(5)
    damage(stage, stage.ledger.store.keys.job("b/00000"))
    request_cancel(stage.ledger, "b")
    _cancelled(stage)
    assert stage.images() == ["cancelled"] * 5
    stage.finalized()
    assert stage.batch_state() is BatchState.CANCELLED


def test_a_pods_report_is_bound_to_the_images_of_its_job(stage: Stage) -> None:
    stage.batch(6)
    wild: list[Exception] = []

    def play(spec: AttemptSpec) -> Play:
        def reports() -> None:
            pod = stage.pod(spec)
            assert pod.register() is None
            other = stage.pod(spec.model_copy(update={"shard_key": BatchObjects("b").shard(1)})).tasks
            for index in (other[0].index, 999, 10**9):
                with pytest.raises(ClaimRefused) as refused:
                    stage.ledger.images.move_by_pod(
                        "b", spec.job_ref, [index], ImageState.SUCCEEDED,
                        pod=pod.uid, attempt=spec.number, token=spec.token,
                    )  # fmt: skip
                wild.append(refused.value)

        return [reports, *stage.all_well(spec)] if spec.job_index == 0 else stage.all_well(spec)

    stage.node.play = play
    stage.work()
    assert len(wild) == 3
    assert stage.images() == ["succeeded"] * 6
    assert stage.job().indices == "0-2"


def test_an_image_that_is_not_the_jobs_is_blamed_for_nothing(stage: Stage) -> None:
    """Its pods die of image 1, and their reports name image 999."""
    report = PodReport(code=Code.OUT_OF_MEMORY, image=999)

    def play(spec: AttemptSpec) -> Play:
        pod = stage.pod(spec)

        def dies() -> AttemptOutcome:
            pod.register()
            left = pod.left()
            pod.commit([task for task in left if task.index == 0])
            if any(task.index == 1 for task in left):
                pod.start([task for task in left if task.index == 1])
                return AttemptOutcome(Code.OUT_OF_MEMORY, "boom", report=report)
            pod.commit(pod.left())
            return SUCCEEDED

        return [dies]

    stage.node.play = play
    stage.batch(3)
    stage.work()
    assert stage.images() == ["succeeded", "failed", "succeeded"]


def test_a_batch_waits_for_weights_that_are_not_there_yet_without_an_attempt(wired: Stage) -> None:
    words = "the weights of tiny are not there yet: Job warm-up copies and checks them"
    wired.node.copies = dict.fromkeys(MODELS, words)
    tick.announce(wired.worker)
    assert dict(wired.ledger.deployment().awaits) == wired.node.copies
    wired.batch(2)
    _work(wired, lambda: len(jobs_status(wired.ledger, "b")) == 2)
    waiting = jobs_status(wired.ledger, "b")
    assert [(job.state, job.attempt, job.detail) for job in waiting] == [(JobState.PENDING, 0, words)] * 2
    assert batch_status(wired.ledger, "b").reason == words
    assert wired.node.launched == []
    wired.node.copies = {}
    tick.announce(wired.worker)
    assert not wired.ledger.deployment().awaits
    _work(wired, lambda: _rendered(wired))
    assert wired.images("b") == ["succeeded"] * 2
    assert [wired.job(index).ended[-1].number for index in range(2)] == [1, 1]
