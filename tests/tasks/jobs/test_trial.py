"""A model that no pod has loaded yet is tried by one pod; what is wrong with it ends the others' jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.ledger.trials import TRIAL_S
from pipeline.operations.cancel import request_cancel
from pipeline.operations.retry import request_retry
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code
from pipeline.states import JobState
from tasks.app import render
from tasks.control.reopen import reopen
from tasks.process.model_digests import ModelDigests
from tests.tasks.node import Play
from tests.tasks.stage import Stage

WRONG = AttemptOutcome(Code.CONFIG_ERROR, "PodMisconfigured: model 'demo': 3 tensors missing", exit_code=78)


def _wrong(_: AttemptSpec) -> Play:
    return [AttemptPhase.PENDING, AttemptPhase.RUNNING, WRONG]


def _errors(stage: Stage) -> set[tuple[str, str]]:
    stage.finalized()
    return {(error["code"], error["message"]) for error in stage.lines("errors.jsonl")}


def test_a_wrong_model_costs_a_batch_of_many_jobs_one_pod_with_many_workers(stage: Stage) -> None:
    stage.batch(12)  # four jobs
    stage.node.play = _wrong
    for name in ("w2", "w3", "w4"):
        stage.in_background(stage.new_worker(name))
    stage.work()
    assert len(stage.node.launched) == 1
    assert stage.images() == ["failed"] * 12
    [(code, message)] = _errors(stage)
    assert code == "E_ATTEMPTS_EXHAUSTED"
    assert message.startswith("CONFIG_ERROR: PodMisconfigured: model 'demo': 3 tensors missing; another attempt would")


def test_the_others_wait_with_a_reason_and_start_together_once_a_pod_renders(stage: Stage) -> None:
    stage.batch(9)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    stage.in_background(stage.worker)
    stage.soon(lambda: stage.state(0) is JobState.RUNNING, "a pod that tries the model")
    render(stage.new_worker("w2"))
    waiting = stage.job(1)
    assert waiting.wait is not None
    assert waiting.wait.reason == "job b/00000 tries model 'demo', which no pod has loaded yet"
    assert (waiting.attempt, len(stage.node.launched)) == (None, 1)
    spec = stage.job(0).attempt
    assert spec is not None
    pod = stage.pod(spec)
    assert pod.register() is None
    pod.start(pod.tasks[:1])
    for name in ("w3", "w4"):
        stage.in_background(stage.new_worker(name))

    def both_started() -> bool:
        stage.ledger.leases.promote()
        for index in (1, 2):
            if stage.job(index).attempt is None:
                stage.in_background(stage.new_worker(f"w{index}-{len(stage.node.launched)}"))
        return len(stage.node.launched) == 3

    stage.soon(both_started, "pods of the other two jobs")


def test_a_trial_that_shows_nothing_goes_to_another_job(stage: Stage) -> None:
    stage.batch(6)
    preempted: Play = [AttemptOutcome(Code.PREEMPTED, "spot")]
    stage.node.play = lambda spec: preempted if (spec.job_index, spec.number) == (0, 1) else stage.all_well(spec)
    stage.work()
    assert (stage.state(0), stage.state(1), len(stage.node.launched)) == (JobState.SUCCEEDED, JobState.SUCCEEDED, 3)


def test_what_somebody_else_wrote_in_a_trials_place_ends_like_a_trial(stage: Stage) -> None:
    store = stage.ledger.store
    lasting = store.keys.trial("m")
    store.redis.set(lasting, "zz")
    assert stage.ledger.trials.begin("m", "b/00000") == "zz"
    assert 0 < store.redis.pttl(lasting) <= TRIAL_S * 1000
    store.redis.pexpire(lasting, 5)
    stage.soon(lambda: stage.ledger.trials.begin("m", "b/00000") is None, "the end of what was there")


def test_a_cancelled_batch_leaves_its_trial_to_the_next_at_once(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    stage.in_background(stage.worker)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a pod that tries the model")
    request_cancel(stage.ledger, "b")
    stage.soon(lambda: stage.state() is JobState.CANCELLED, "the end of the job")
    stage.node.play = stage.all_well
    stage.batch(1, "next")
    render(stage.new_worker("w2"))
    job = stage.ledger.jobs.get("next/00000")
    assert job is not None
    assert (job.state, job.wait) == (JobState.SUCCEEDED, None)


def test_a_retry_tries_a_refused_model_once_more(stage: Stage) -> None:
    stage.batch(6)
    stage.node.play = _wrong
    stage.work()
    stage.finalized()
    stage.node.play = stage.all_well
    request_retry(stage.ledger, stage.artifacts, "b")
    reopen(stage.worker, "b")
    stage.work()
    assert (stage.images(), len(stage.node.launched)) == (["succeeded"] * 6, 3)


def test_files_that_have_changed_are_tried_again(stage: Stage, tmp_path: Path) -> None:
    """A proof is of the files as they lay there, as far as a worker sees them."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"good")
    model = stage.settings.models["demo"].model_copy(update={"path": str(file)})
    worker = replace(stage.new_worker("w2", models={"demo": model}), models=ModelDigests(fresh_s=0))
    stage.batch(3)
    stage.work(worker=worker)
    file.write_bytes(b"broken")
    stage.batch(6, "c")
    stage.node.play = _wrong
    for name in ("w3", "w4"):
        stage.in_background(stage.new_worker(name, models={"demo": model}))
    stage.work("c", worker)
    assert len(stage.node.launched) == 2
