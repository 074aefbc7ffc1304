"""Redis comes back empty: everything is rebuilt from the bucket, and what runs goes on."""

from __future__ import annotations

import threading

import pytest

from pipeline.errors import BatchLost, ClaimRefused, LeaseLost, ServiceError, StaleWrite
from pipeline.ledger.jobs import QueuePlace
from pipeline.operations.cancel import request_cancel
from pipeline.operations.resume import check_lost, recover_batch, unknown_batches
from pipeline.operations.retry import request_retry
from pipeline.operations.submit import Submission, accept, checked_options
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec
from pipeline.records.batch import advance, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode
from pipeline.states import BatchState, ImageState, JobState
from tasks.control import tick
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tasks.control.reopen import reopen
from tasks.control.verify_ledger import verify_ledger
from tests.tasks.node import Killed, Play
from tests.tasks.stage import SUCCEEDED, Stage


def _emptied(stage: Stage) -> None:
    for key in stage.ledger.store.redis.scan_iter(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)
    tick.announce(stage.worker)


def _resumed(stage: Stage) -> list[str]:
    """What `tessera resume` and then the controller do."""
    ledger = stage.ledger
    found = [m.id for m in unknown_batches(ledger, stage.artifacts, ended=True) if recover_batch(ledger, m)]
    for batch_id in found:
        expand(stage.worker, batch_id)
    return found


def _everything(stage: Stage) -> dict[str, object]:
    """All that the ledger holds of batches, jobs and images."""
    redis, prefix = stage.ledger.store.redis, stage.settings.redis_prefix
    keys = [key for key in redis.scan_iter(f"{prefix}:*") if f"{prefix}:celery" not in key and ":lock" not in key]
    return {key: redis.dump(key) for key in keys if ":batch:" in key or ":job:" in key or ":backlog:" in key}


def _half_done(stage: Stage, rows: int = 7) -> str:
    """A batch of three jobs: the first over, the second begun and running, the third waiting. Returns what runs."""
    stage.batch(rows)

    def play(spec: AttemptSpec) -> Play:
        if spec.job_index == 0:
            return stage.all_well(spec)
        return [lambda: stage.pods_work(spec, lambda tasks: tasks[:1]), AttemptPhase.RUNNING]

    stage.node.play = play
    worker = stage.new_worker("first")
    stage.in_background(worker)
    stage.soon(lambda: stage.state(1) is JobState.RUNNING, "a running job")
    stage.close()
    [name] = stage.node.running
    return name


def test_what_is_over_stays_over_what_runs_goes_on_and_what_waits_is_queued(stage: Stage) -> None:
    running = _half_done(stage)
    before = stage.ledger.batches.get("b").manifest
    spec = stage.job(1).attempt
    assert spec is not None
    _emptied(stage)
    assert _resumed(stage) == ["b"]
    assert stage.ledger.batches.get("b").manifest.incarnation != before.incarnation
    assert stage.batch_state() is BatchState.IN_PROGRESS
    assert [stage.state(index) for index in range(3)] == [JobState.SUCCEEDED, JobState.RUNNING, JobState.QUEUED]
    assert stage.images() == ["succeeded"] * 4 + ["queued"] * 3
    assert (stage.job(1).attempt, stage.job(1).confirmed) == (spec, True)
    tick.delete_orphans(stage.worker)
    assert stage.node.running == {running}

    pod = stage.pod(spec)  # the very pod: it registers again and goes on
    assert pod.register() is None
    pod.commit(pod.tasks[1:])
    stage.node._left[running][:] = [SUCCEEDED]
    stage.node.play = stage.all_well
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 7
    assert len(stage.node.launched) == 3  # no second pod for a job that had one
    assert [line["provenance"]["attempt"] for line in stage.lines("results.jsonl")] == [1] * 7


def test_it_changes_nothing_when_nothing_is_lost_and_when_done_twice(stage: Stage) -> None:
    _half_done(stage)
    before = _everything(stage)
    assert _resumed(stage) == []
    assert _everything(stage) == before
    _emptied(stage)
    assert _resumed(stage) == ["b"]
    before = _everything(stage)
    assert _resumed(stage) == []
    expand(stage.worker, "b")
    assert _everything(stage) == before


def test_two_at_once_do_it_once(stage: Stage) -> None:
    _half_done(stage)
    _emptied(stage)
    found: list[list[str]] = []
    both = threading.Barrier(2)

    def resume() -> None:
        both.wait()
        found.append(_resumed(stage))

    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [[], ["b"]]
    stage.soon(lambda: stage.batch_state() is BatchState.IN_PROGRESS, "the rebuilt batch")
    assert stage.images() == ["succeeded"] * 4 + ["queued"] * 3


def test_an_attempt_that_ended_while_redis_was_empty_is_followed_by_another_under_a_new_name(stage: Stage) -> None:
    running = _half_done(stage)
    _emptied(stage)
    stage.node._left[running][:] = [AttemptOutcome(SUCCEEDED.code, "", exit_code=0)]
    stage.node.observe()
    _resumed(stage)
    assert stage.state(1) is JobState.QUEUED
    stage.node.play = lambda spec: [lambda: stage.pods_work(spec, lambda tasks: tasks), SUCCEEDED]
    tick.delete_orphans(stage.worker)
    stage.work()
    assert stage.images() == ["succeeded"] * 7
    assert running not in stage.node.running
    assert len(set(stage.node.launched)) == len(stage.node.launched) == 4


def test_whoever_wrote_to_the_ledger_before_is_fenced_off(stage: Stage) -> None:
    stage.batch(3)
    lease = stage.ledger.leases.claim("old", 600)
    assert lease is not None
    record = stage.ledger.batches.get("b")
    _emptied(stage)
    _resumed(stage)
    again = stage.ledger.leases.claim("new", 600)
    assert again is not None
    assert int(again.fence) > int(lease.fence)
    with pytest.raises(LeaseLost):
        stage.ledger.leases.renew("b/00000", lease.fence, 10)
    moved = advance(lease.job, JobState.LAUNCHING, at=stage.ledger.now())
    with pytest.raises((LeaseLost, StaleWrite)):
        stage.ledger.jobs.write(moved, QueuePlace.HELD, fence=lease.fence)
    for incarnation, refusal in ((lease.job.incarnation, StaleWrite), (again.job.incarnation, LeaseLost)):
        with pytest.raises(refusal):
            stage.ledger.images.move_by_worker(
                "b", "b/00000", [0], ImageState.SUCCEEDED, incarnation=incarnation, fence=lease.fence
            )
    while record.revision < stage.ledger.batches.get("b").revision:
        record = changed(record, at=stage.ledger.now())
    with pytest.raises(StaleWrite):  # of the right revision, and of another incarnation
        stage.ledger.batches.write(changed(record, at=stage.ledger.now()))
    assert stage.images() == ["queued"] * 3


def test_a_pod_of_an_attempt_that_is_not_on_record_any_more_is_refused(stage: Stage) -> None:
    stage.batch(1)
    specs: list[AttemptSpec] = []
    stage.node.play = lambda spec: [lambda: specs.append(spec), AttemptPhase.RUNNING]
    stage.in_background(stage.new_worker("first"))
    stage.soon(lambda: specs, "a launched attempt")
    stage.close()
    old = stage.pod(specs[0])
    assert old.register() is None
    _emptied(stage)
    with pytest.raises(BatchLost, match="run `tessera resume`"):
        old.register()
    with pytest.raises(BatchLost):
        old.start(old.tasks)
    stage.node.vanish(specs[0].name)  # nobody can know that it runs
    _resumed(stage)
    stage.node.play = stage.all_well
    stage.work()
    assert old.register() is not None
    with pytest.raises(ClaimRefused):
        old.start(old.tasks)


def test_nothing_is_started_as_long_as_what_runs_is_not_known(stage: Stage) -> None:
    running = _half_done(stage)
    _emptied(stage)
    stage.node.outage = 1
    with pytest.raises(ServiceError):
        _resumed(stage)
    assert stage.ledger.leases.backlog() == 0
    expand(stage.worker, "b")
    assert (stage.state(1), stage.node.running) == (JobState.RUNNING, {running})


@pytest.mark.parametrize("after", range(3))
def test_a_controller_killed_while_it_rebuilds_is_made_up_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    _half_done(stage)
    _emptied(stage)
    create, calls = stage.worker.ledger.jobs.create, [0]

    def dies(*args: object) -> bool:
        if calls[0] == after:
            raise Killed
        calls[0] += 1
        return create(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stage.worker.ledger.jobs, "create", dies)
        with pytest.raises(Killed):
            _resumed(stage)
    tick.delete_orphans(stage.worker)
    expand(stage.worker, "b")
    assert stage.images() == ["succeeded"] * 4 + ["queued"] * 3
    assert [stage.state(index) for index in range(3)] == [JobState.SUCCEEDED, JobState.RUNNING, JobState.QUEUED]


def test_a_batch_that_has_ended_is_known_again_with_its_counts(stage: Stage) -> None:
    stage.batch(5)

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            pod.register()
            for task in pod.left():
                pod.fail([task], FailureCode.BLACK) if task.index == 1 else pod.commit([task])
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.work()
    stage.finalized()
    results = stage.lines("results.jsonl")
    _emptied(stage)
    tick.recover_batches(stage.worker)
    assert not stage.ledger.batches.known("b")  # not by itself: it needs nothing
    assert _resumed(stage) == ["b"]
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.images() == ["succeeded", "failed", "succeeded", "succeeded", "succeeded"]
    assert stage.ledger.batches.unfinished() == []
    assert stage.lines("results.jsonl") == results
    assert request_retry(stage.ledger, stage.artifacts, "b").images == 1
    reopen(stage.worker, "b")
    stage.node.play = lambda spec: [lambda: stage.pods_work(spec, lambda tasks: tasks[1:2]), SUCCEEDED]
    stage.work()
    assert stage.images() == ["succeeded"] * 5


def test_a_cancelled_and_a_failed_batch_are_what_they_were(stage: Stage) -> None:
    stage.batch(4, "c")
    request_cancel(stage.ledger, "c")
    cancel(stage.worker, "c")
    stage.finalized("c")
    stage.accepted(2, "f")
    objects = BatchObjects("f")
    stage.artifacts.put(objects.input(stage.ledger.batches.get("f").manifest.staged), b"{}\n", content_type="x/y")
    expand(stage.worker, "f")
    reason = stage.ledger.batches.get("f").reason
    assert stage.batch_state("f") is BatchState.FAILED
    _emptied(stage)
    assert _resumed(stage) == ["c", "f"]
    assert stage.batch_state("c") is BatchState.CANCELLED
    assert stage.images("c") == ["cancelled"] * 4
    assert (stage.batch_state("f"), stage.ledger.batches.get("f").reason) == (BatchState.FAILED, reason)


def test_a_batch_is_cut_as_before_by_a_controller_of_another_setting(stage: Stage) -> None:
    _half_done(stage)
    _emptied(stage)
    other = stage.new_worker("other", images_per_job=2)
    for manifest in unknown_batches(stage.ledger, stage.artifacts, ended=True):
        recover_batch(stage.ledger, manifest)
    expand(other, "b")
    assert [stage.job(index).images for index in range(3)] == [3, 3, 1]


def test_submitting_the_same_rows_again_takes_the_batch_up_as_well(stage: Stage) -> None:
    running = _half_done(stage)
    _emptied(stage)
    prompts = [{"prompt": f"p{number}", "width": 64, "height": 64} for number in range(7)]
    accepted = accept(Submission(prompts, checked_options({}), "b"), stage.ledger, stage.artifacts)
    assert not accepted.created
    expand(stage.worker, "b")
    assert stage.images() == ["succeeded"] * 4 + ["queued"] * 3
    attempt = stage.job(1).attempt
    assert attempt is not None
    assert attempt.name == running


def test_a_lost_batch_is_told_from_one_that_never_was(stage: Stage) -> None:
    stage.accepted(1)
    _emptied(stage)
    with pytest.raises(BatchLost, match="run `tessera resume`"):
        check_lost(stage.artifacts, "b")
    for never in ("nobody", "../b", ""):
        check_lost(stage.artifacts, never)


def test_the_tick_after_redis_was_emptied_takes_running_batches_up_by_itself(stage: Stage) -> None:
    _half_done(stage)
    tick.tick(stage.worker)
    _emptied(stage)
    tick.tick(stage.worker)
    assert "tessera.verify_ledger" in stage.hints()
    verify_ledger(stage.worker)
    assert stage.ledger.batches.unfinished() == ["b"]
    tick.tick(stage.worker)
    assert "tessera.expand" in stage.hints()
