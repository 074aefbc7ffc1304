"""One job from claim to its end, with the node played by the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_shard
from pipeline.deployment.layouts import Layout
from pipeline.deployment.slot_choice import tries
from pipeline.deployment.speed import Speed, SpeedKey
from pipeline.names import job_ref
from pipeline.operations.status import jobs_status
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode
from pipeline.records.shards import ImageTask
from pipeline.states import BatchState, JobState
from tasks.app import render
from tasks.jobs import images, retry_policy
from tasks.jobs.advance_job import next_attempt
from tasks.jobs.images import job_images
from tests.tasks.node import Node, Play
from tests.tasks.stage import SUCCEEDED, Stage

ENGINE_ERROR = AttemptOutcome(Code.ENGINE_ERROR, "RuntimeError: boom", exit_code=1, node="n1")


def _attempts(*plays: Callable[[AttemptSpec], Play]) -> Callable[[AttemptSpec], Play]:
    """One play for each attempt of a job."""
    return lambda spec: plays[spec.number - 1](spec)


def test_a_job_goes_through_its_states_and_ends_with_every_image_committed(stage: Stage) -> None:
    stage.batch(4)
    stage.work()
    assert [stage.state(0), stage.state(1)] == [JobState.SUCCEEDED, JobState.SUCCEEDED]
    assert stage.images() == ["succeeded"] * 4
    events = stage.ledger.batches.events("b", after="0", wait_s=0.01)
    assert [event.state for event in events if event.name == "b/00000"] == [
        "queued",
        "launching",
        "pending",
        "running",
        "succeeded",
    ]
    assert len(stage.node.launched) == 2
    assert stage.node.running == set()
    assert [end.code for end in stage.job().ended] == [Code.SUCCEEDED]
    assert stage.hints()[-1] == "tessera.finalize"


def test_a_worker_parses_the_shard_of_a_job_that_it_holds_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def noted(artifacts: Artifacts, key: str, *, patient: bool) -> list[ImageTask] | None:
        parsed.append(key)
        return fetch_shard(artifacts, key, patient=patient)

    monkeypatch.setattr(images, "fetch_shard", noted)
    stage.batch(4)
    stage.node.play = _attempts(lambda _: [ENGINE_ERROR], stage.all_well)
    worker = stage.new_worker("w2", goal="throughput")  # it looks at the images to choose a layout, and at the end
    stage.work(worker=worker)
    shards = [BatchObjects("b").shard(job) for job in (0, 1)]
    assert sorted(parsed) == sorted(2 * shards)  # once for each time that it held the job
    assert worker.images.get("b/00000") is None


def test_an_attempt_carries_the_settings_it_was_recorded_with(stage: Stage) -> None:
    stage.batch(1)
    displaced = {"resync": 0.2, "norm_mode": "stale", "most_work": 2.0, "settling_steps": 9}
    stage.work(worker=stage.new_worker("w2", exact=True, gpus=4, warmup_steps=7, **displaced))
    spec = stage.job().attempt
    assert spec is not None
    assert (spec.exact, spec.gpus, str(spec.layout), spec.warmup_steps) == (True, 4, "1x2x2", 7)
    assert spec.displacement.model_dump(mode="json") == displaced
    assert (spec.vae_dtype, spec.vae_dtype_on_gpu) == ("float32", None)
    assert spec.name == f"tessera-{stage.job().incarnation}-00000-1" == stage.node.launched[0]


def test_rows_that_are_displaced_otherwise_have_attempts_of_their_own(stage: Stage) -> None:
    rows: list[dict[str, object]] = [{"norm_mode": "synchronous"}, {}, {"resync": 0.1}, {"settling_steps": 7}, {}]
    stage.batch(prompts=[{"prompt": "p", "width": 64, "height": 64, **row} for row in rows])
    stage.work(worker=stage.new_worker("w2", resync=0.2, settling_steps=0))
    displaced = []
    for index in range(4):
        spec = stage.job(index).attempt
        assert spec is not None
        displaced.append(spec.displacement.model_dump(mode="json"))
    assert displaced == [
        {"resync": 0.2, "norm_mode": "synchronous"},
        {"resync": 0.2},
        {"resync": 0.1},
        {"resync": 0.2, "settling_steps": 7},
    ]


@pytest.mark.parametrize(
    ("setting", "formats"),
    [("auto", ("float32", "bfloat16")), ("float32", ("float32", None)), ("float16", ("float16", None))],
)
def test_the_vae_is_faster_on_a_gpu_unless_a_format_is_asked_for(
    stage: Stage, setting: str, formats: tuple[str, str | None]
) -> None:
    stage.batch(1)
    stage.work(worker=stage.new_worker("w2", vae_dtype=setting))
    spec = stage.job().attempt
    assert spec is not None
    assert (spec.vae_dtype, spec.vae_dtype_on_gpu) == formats


def test_an_engine_failure_is_tried_again_and_what_was_committed_is_kept(stage: Stage) -> None:
    stage.batch(3)

    def fails(spec: AttemptSpec) -> Play:
        return [lambda: stage.pods_work(spec, lambda tasks: tasks[:1]), AttemptPhase.RUNNING, ENGINE_ERROR]

    def rest(spec: AttemptSpec) -> Play:
        return [lambda: stage.pods_work(spec, lambda tasks: tasks[1:]), SUCCEEDED]

    stage.node.play = _attempts(fails, rest)
    stage.work()
    job = stage.job()
    assert (job.state, job.spent) == (JobState.SUCCEEDED, 1)
    assert [(end.number, end.code, end.reason, end.node) for end in job.ended] == [
        (1, Code.ENGINE_ERROR, "RuntimeError: boom", "n1"),
        (2, Code.SUCCEEDED, "", None),
    ]
    stage.finalized()
    assert [line["provenance"]["attempt"] for line in stage.lines("results.jsonl")] == [1, 2, 2]


def test_a_job_whose_attempts_are_used_up_fails_with_a_reason_and_its_neighbours_finish(stage: Stage) -> None:
    stage.batch(5)
    stage.node.play = lambda spec: (
        [lambda: stage.pods_work(spec, lambda tasks: tasks[:2]), ENGINE_ERROR]
        if spec.job_index == 0
        else stage.all_well(spec)
    )
    stage.work()
    assert (stage.state(0), stage.state(1)) == (JobState.FAILED, JobState.SUCCEEDED)
    assert stage.images() == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    assert len(stage.lines("results.jsonl")) == 4
    [error] = stage.lines("errors.jsonl")
    assert (error["custom_id"], error["code"], error["retryable"]) == ("row-3", "E_ATTEMPTS_EXHAUSTED", True)
    assert error["message"] == "ENGINE_ERROR: RuntimeError: boom (attempt 3 of 3)"


def test_what_no_retry_mends_is_not_retried(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda _: [AttemptOutcome(Code.CONFIG_ERROR, "no such model", exit_code=1)]
    stage.work()
    assert (stage.state(), len(stage.node.launched)) == (JobState.FAILED, 1)


def test_disruptions_cost_no_attempt(stage: Stage) -> None:
    stage.batch(1)
    preempted: Callable[[AttemptSpec], Play] = lambda _: [AttemptOutcome(Code.PREEMPTED, "spot")]  # noqa: E731
    stage.node.play = _attempts(preempted, preempted, preempted, preempted, stage.all_well)
    stage.work()
    assert (stage.state(), stage.job().spent, len(stage.node.launched)) == (JobState.SUCCEEDED, 0, 5)


def test_a_node_whose_gpu_proved_bad_is_avoided_by_every_later_attempt(stage: Stage) -> None:
    stage.batch(1)
    bad = AttemptOutcome(Code.GPU_UNHEALTHY, "Xid 79", exit_code=1, node="gpu-7")
    stage.node.play = _attempts(lambda _: [bad], lambda _: [ENGINE_ERROR], stage.all_well)
    stage.work()
    job = stage.job()
    assert (job.state, job.attempt is not None and job.attempt.avoid_nodes) == (JobState.SUCCEEDED, ("gpu-7",))


def test_exit_0_with_images_missing_is_not_believed(stage: Stage) -> None:
    stage.batch(2)
    stage.node.play = _attempts(
        lambda spec: [lambda: stage.pods_work(spec, lambda tasks: tasks[:1]), SUCCEEDED], stage.all_well
    )
    stage.work()
    assert (stage.state(), stage.job().spent, len(stage.node.launched)) == (JobState.SUCCEEDED, 1, 2)
    assert stage.images() == ["succeeded", "succeeded"]


def test_a_fragment_that_names_an_image_which_is_not_in_the_bucket_is_not_believed(stage: Stage) -> None:
    stage.batch(2)

    def lies(spec: AttemptSpec) -> Play:
        def lie() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.commit(pod.tasks[:1])
            pod.claim_success(pod.tasks[1:])
            pod.write_fragment()

        return [lie, SUCCEEDED]

    stage.node.play = lies
    stage.work()
    assert stage.state() is JobState.FAILED
    assert stage.images() == ["succeeded", "failed"]


def test_a_pod_that_died_before_it_told_the_ledger_has_committed_all_the_same(stage: Stage) -> None:
    stage.batch(2)

    def dies(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.start(pod.tasks)
            pod.commit(pod.tasks, tell=False)

        return [work, AttemptOutcome(Code.NODE_LOST, "gone")]

    stage.node.play = dies
    stage.work()
    assert (stage.state(), len(stage.node.launched)) == (JobState.SUCCEEDED, 1)
    assert stage.images() == ["succeeded", "succeeded"]


def test_images_that_the_pod_gave_up_on_are_outcomes_and_need_no_other_attempt(stage: Stage) -> None:
    stage.batch(2)

    def one_black(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.commit(pod.tasks[:1])
            pod.fail(pod.tasks[1:], FailureCode.BLACK)

        return [work, SUCCEEDED]

    stage.node.play = one_black
    stage.work()
    assert (stage.state(), len(stage.node.launched)) == (JobState.SUCCEEDED, 1)
    stage.finalized()
    assert [line["code"] for line in stage.lines("errors.jsonl")] == ["E_BLACK"]


def test_running_images_of_an_attempt_that_ended_are_queued_again(stage: Stage) -> None:
    stage.batch(2)
    seen: list[list[str]] = []

    def dies(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.start(pod.tasks)

        return [work, AttemptOutcome(Code.KILLED, "signal 9")]

    def notices(spec: AttemptSpec) -> Play:
        seen.append(stage.images())
        return stage.all_well(spec)

    stage.node.play = _attempts(dies, notices)
    stage.work()
    assert seen == [["queued", "queued"]]


@pytest.mark.parametrize("seen_before", [False, True])
def test_an_attempt_that_somebody_deleted_is_replaced_by_another_and_costs_nothing(
    stage: Stage, seen_before: bool
) -> None:
    stage.batch(1)

    def vanishes(spec: AttemptSpec) -> Play:
        phases: list[AttemptPhase] = [AttemptPhase.RUNNING] if seen_before else []
        return [*phases, lambda: stage.node.vanish(spec.name), AttemptPhase.RUNNING]

    stage.node.play = _attempts(vanishes, stage.all_well)
    stage.work()
    assert (stage.state(), stage.job().spent, len(stage.node.launched)) == (JobState.SUCCEEDED, 0, 2)
    assert stage.job().ended[0].code is Code.DELETED


def test_an_outage_of_the_launcher_is_waited_out_and_costs_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.jobs.run_job.OUTAGE_PAUSE_S", 0.02)
    stage.batch(1)
    stage.node.outage = 3
    stage.work()
    assert (stage.state(), stage.job().spent, len(stage.node.launched)) == (JobState.SUCCEEDED, 0, 1)


def test_a_cluster_that_refuses_is_seen_in_the_status_until_it_takes_the_job(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.jobs.run_job.OUTAGE_PAUSE_S", 0.02)
    stage.batch(1)
    seen: list[tuple[JobState, str]] = []

    def look() -> None:
        [job] = jobs_status(stage.ledger, "b")
        seen.append((job.state, job.detail))

    class Refusing(Node):
        def _reached(self) -> None:
            if self.outage:
                look()
            super()._reached()

    stage.node.__class__ = Refusing
    stage.node.outage = 3
    stage.node.play = lambda spec: [AttemptPhase.RUNNING, look, *stage.all_well(spec)]
    stage.work()
    refused = (JobState.LAUNCHING, "the cluster does not answer")
    assert seen == [(JobState.LAUNCHING, ""), refused, refused, (JobState.RUNNING, "")]
    assert stage.state() is JobState.SUCCEEDED


def test_what_an_attempt_waits_for_is_seen_in_the_clusters_words_while_it_lasts(stage: Stage) -> None:
    stage.batch(1)
    seen: list[tuple[JobState, int, str]] = []

    def look() -> None:
        [job] = jobs_status(stage.ledger, "b")
        seen.append((job.state, job.attempt, job.detail))

    def waits(_: AttemptSpec) -> Play:
        return [
            (AttemptPhase.WAITING_QUOTA, "exceeded quota: gpus"),
            (AttemptPhase.WAITING_QUOTA, "exceeded quota: gpus"), look,
            (AttemptPhase.PENDING, "0/5 nodes are available"), look,
            (AttemptPhase.PENDING, "ImagePullBackOff: 401 Unauthorized " + 1000 * "x"), look,
            (AttemptPhase.RUNNING, "runs on gpu-7"), look, ENGINE_ERROR,
        ]  # fmt: skip

    stage.node.play = _attempts(waits, lambda spec: [look, *stage.all_well(spec)])
    assert jobs_status(stage.ledger, "b") == []
    stage.work()
    assert [one[:2] for one in seen] == [
        (JobState.WAITING_QUOTA, 1),
        (JobState.PENDING, 1),
        (JobState.PENDING, 1),
        (JobState.RUNNING, 1),
        (JobState.LAUNCHING, 2),
    ]
    details = [one[2] for one in seen]
    assert details[:2] == ["exceeded quota: gpus", "0/5 nodes are available"]
    assert details[2].startswith("ImagePullBackOff: 401 Unauthorized x")
    assert len(details[2]) == 500
    assert details[3:] == ["runs on gpu-7", ""]
    assert jobs_status(stage.ledger, "b") == []


def test_a_job_that_waits_for_another_attempt_says_how_the_last_one_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "FIRST_DELAY_S", 600.0)
    stage.batch(1)
    stage.node.play = lambda _: [ENGINE_ERROR]
    render(stage.worker)
    [job] = jobs_status(stage.ledger, "b")
    assert (job.state, job.attempt, job.detail) == (JobState.RETRYING, 1, "ENGINE_ERROR: RuntimeError: boom")
    assert job.as_dict()["ended"][0]["node"] == "n1"


@pytest.mark.parametrize(
    ("changes", "layout", "said"),
    [
        ({"gpus": 4}, "1x2x2", "latency"),
        ({"gpus": 4, "layout": Layout(4, 1, 1)}, "4x1x1", "TESSERA_LAYOUT"),
        ({"gpus": 3, "goal": "throughput"}, "3x1x1", "3 replicas of 1 GPUs"),
        ({"gpus": 4, "goal": "throughput", "one_gpu_megapixels": 0.001}, "1x", ""),
    ],
)
def test_the_layout_and_its_reason_stand_in_the_jobs_record(
    stage: Stage, changes: dict[str, Any], layout: str, said: str
) -> None:
    stage.batch(12)
    worker = stage.new_worker("w2", **changes)
    stage.work(worker=worker)
    job = stage.job(0)
    assert job.attempt is not None
    assert str(job.attempt.layout).startswith(layout)
    assert said in job.layout_reason


def test_one_job_in_sixteen_tries_another_number_of_slots_than_the_best_known(stage: Stage) -> None:
    stage.worker = stage.new_worker("w1", goal="throughput", gpus=1, device="auto", images_per_job=4)
    name = next(
        name for name in (f"b{n}" for n in range(99)) if any(tries(job_ref(name, index)) for index in range(16))
    )
    stage.batch(64, name)
    trying = [index for index in range(16) if tries(job_ref(name, index))]
    other = next(index for index in range(16) if index not in trying)
    rows = job_images(stage.worker, stage.job(trying[0], name))
    pixels = rows[0].row.width * rows[0].row.height
    key = SpeedKey.of(rows[0].row.model, Layout(1, 1, 1), exact=False, device="GPU", pixels=pixels, together=4)
    stage.ledger.speeds.learn({key: Speed(images=64, tera=1.0, seconds=1.0)})
    found = {index: next_attempt(stage.worker, stage.job(index, name)) for index in (other, trying[0])}
    assert {index: spec.slots for index, (spec, _) in found.items()} == {other: 4, trying[0]: 2}
    assert "tried" in found[trying[0]][1]


def test_batches_of_one_job_try_as_often_as_the_jobs_of_large_ones() -> None:
    for jobs in ([job_ref(f"batch-{n}", 0) for n in range(3200)], [job_ref("large", n) for n in range(3200)]):
        assert 150 < sum(map(tries, jobs)) < 250
