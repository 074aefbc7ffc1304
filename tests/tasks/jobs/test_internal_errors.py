"""What our own program does not expect happens to one job and no other, and not for ever."""

from __future__ import annotations

import pytest

from pipeline.errors import RecordUnreadable
from pipeline.records.attempt import AttemptPhase, AttemptSpec, LaunchResult
from pipeline.records.batch import JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState, JobState
from tasks.app import render
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage


def _fails_for_job_0(stage: Stage, monkeypatch: pytest.MonkeyPatch, times: int = 10**9) -> list[str]:
    failed: list[str] = []
    launch = stage.node.launch

    def broken(spec: AttemptSpec) -> LaunchResult:
        if spec.job_index == 0 and len(failed) < times:
            failed.append(spec.name)
            raise KeyError("spec")
        return launch(spec)

    monkeypatch.setattr(stage.node, "launch", broken)
    return failed


def test_a_job_over_which_our_program_fails_is_given_up_and_its_neighbours_finish(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.batch(5)
    failed = _fails_for_job_0(stage, monkeypatch)
    stage.work()
    assert (stage.state(0), stage.state(1)) == (JobState.FAILED, JobState.SUCCEEDED)
    assert len(failed) == 3
    stage.finalized()
    assert [line["code"] for line in stage.lines("errors.jsonl")] == ["E_INTERNAL"] * 3
    assert stage.lines("errors.jsonl")[0]["message"] == "KeyError: 'spec' (3 times; the workers' logs say where)"
    assert stage.batch_state() is BatchState.COMPLETED


def test_a_job_over_which_our_program_fails_once_is_only_late(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.batch(2)
    _fails_for_job_0(stage, monkeypatch, times=2)
    stage.work()
    assert stage.images() == ["succeeded"] * 2


def test_a_job_that_is_given_up_while_its_pod_runs_ends_after_its_pod(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.batch(2)
    stage.node.play = lambda spec: [
        AttemptPhase.PENDING,
        lambda: stage.pods_work(spec, lambda t: t[:1]),
        AttemptPhase.RUNNING,
    ]
    write = stage.worker.ledger.jobs.write

    def broken(record: JobRecord, *args: object, **kwargs: object) -> int:
        if record.state is JobState.RUNNING:
            raise RuntimeError("boom")
        return write(record, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.worker.ledger.jobs, "write", broken)
    stage.work()
    assert stage.state() is JobState.FAILED
    assert stage.images() == ["succeeded", "failed"]
    assert stage.node.running == set()


def test_a_job_whose_record_cannot_be_read_does_not_hide_the_jobs_behind_it(stage: Stage) -> None:
    stage.batch(5)
    key = stage.ledger.store.keys.job("b/00000")
    stage.ledger.store.redis.hset(key, "record", "{}")
    render(stage.worker)
    assert stage.state(1) is JobState.SUCCEEDED
    assert stage.ledger.batches.counts("b").images[ImageState.SUCCEEDED] == 2
    assert stage.ledger.leases.backlog() == 0


def test_a_damaged_fragment_is_written_anew_from_what_the_bucket_holds(stage: Stage) -> None:
    stage.batch(5)

    def play(spec: AttemptSpec) -> Play:
        def damage() -> None:
            if spec.job_index == 0:
                stage.artifacts.put(BatchObjects("b").fragment(0), b'{"status": "succ', content_type="text/plain")

        return [lambda: stage.pods_work(spec), damage, SUCCEEDED]

    stage.node.play = play
    render(stage.worker)
    assert (stage.state(0), stage.state(1)) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert [line["index"] for line in stage.lines("fragments/00000.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [TypeError("an object without metadata"), RecordUnreadable("a status", "nothing", "")]
)
def test_what_runs_and_cannot_be_made_out_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("tasks.jobs.run_job.OUTAGE_PAUSE_S", 0.02)
    stage.batch(1)
    observe, broken = stage.node.observe, [True] * 6

    def sometimes() -> object:
        if broken:
            broken.pop()
            raise error
        return observe()

    monkeypatch.setattr(stage.node, "observe", sometimes)
    stage.work()
    assert (stage.state(), stage.job().spent, len(stage.node.launched)) == (JobState.SUCCEEDED, 0, 1)
