"""`tessera retry`: a batch that has ended is opened again for what failed, and for nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipeline.errors import RequestError, UnknownBatch
from pipeline.operations.cancel import request_cancel
from pipeline.operations.retry import request_retry
from pipeline.records.attempt import AttemptOutcome, AttemptSpec, Code
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode
from pipeline.states import BatchState, JobState
from tasks.app import render
from tasks.control import tick
from tasks.control.cancel import cancel
from tasks.control.finalize import finalize
from tasks.control.reopen import reopen
from tests.tasks.node import Killed, Play
from tests.tasks.stage import SUCCEEDED, Stage


def _fails(stage: Stage, codes: Mapping[int, FailureCode], *, retryable: bool = True) -> list[int]:
    """Pods that give up on these images and commit the others; returns what they render, in order."""
    rendered: list[int] = []

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            for task in pod.left():
                rendered.append(task.index)
                if task.index in codes:
                    pod.fail([task], codes[task.index], retryable=retryable)
                else:
                    pod.commit([task])
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    return rendered


def _ended(stage: Stage, rows: int, codes: Mapping[int, FailureCode], **options: bool) -> None:
    stage.batch(rows)
    _fails(stage, codes, **options)
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED


def _retried(stage: Stage, *codes: str) -> int:
    return request_retry(stage.ledger, stage.artifacts, "b", codes).images


BLACK, UNSUPPORTED = FailureCode.BLACK, FailureCode.UNSUPPORTED


def test_only_what_failed_is_rendered_again_and_the_results_are_whole(stage: Stage) -> None:
    _ended(stage, 7, {1: BLACK, 4: BLACK})
    before = {line["image_id"]: line for line in stage.lines("results.jsonl")}
    assert _retried(stage) == 2
    rendered = _fails(stage, {})
    reopen(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert rendered == [1, 4]
    assert stage.images() == ["succeeded"] * 7
    assert stage.batch_state() is BatchState.COMPLETED
    after = {line["image_id"]: line for line in stage.lines("results.jsonl")}
    assert [line["index"] for line in stage.lines("results.jsonl")] == list(range(7))
    assert {key: after[key] for key in before} == before
    assert stage.lines("errors.jsonl") == []
    assert stage.artifacts.head("batches/b/_SUCCESS") is not None
    assert [stage.state(index) for index in range(3)] == [JobState.SUCCEEDED] * 3
    assert len(stage.node.launched) == len(set(stage.node.launched)) == 5


def test_what_fails_again_is_listed_again(stage: Stage) -> None:
    _ended(stage, 3, {1: BLACK})
    assert _retried(stage) == 1
    reopen(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert [line["code"] for line in stage.lines("errors.jsonl")] == ["E_BLACK"]
    assert stage.images() == ["succeeded", "failed", "succeeded"]
    assert _retried(stage) == 1


@pytest.mark.parametrize(("rows", "takes"), [(1, "new"), (3, "old")])
def test_a_retry_takes_the_deployments_image_of_now_unless_pictures_were_made_with_the_old_one(
    stage: Stage, rows: int, takes: str
) -> None:
    _ended(stage, rows, {0: BLACK})
    rendered, images = _fails(stage, {}), list[str | None]()
    play = stage.node.play

    def noted(spec: AttemptSpec) -> Play:
        images.append(spec.image)
        return play(spec)

    stage.node.play = noted
    assert _retried(stage) == 1
    reopen(stage.new_worker("repaired", image="new"), "b")
    stage.work()
    assert rendered == [0]
    assert images == ["new" if takes == "new" else stage.settings.image]


@pytest.mark.parametrize("damage", [True, False])
def test_a_job_whose_fragment_is_gone_or_damaged_is_opened_all_the_same(stage: Stage, damage: bool) -> None:
    _ended(stage, 5, {1: BLACK})
    key = BatchObjects("b").fragment(0)
    if damage:
        stage.artifacts.put(key, b"{", content_type="application/x-ndjson")
    else:
        stage.artifacts.delete(key)
    assert _retried(stage) == 1
    rendered = _fails(stage, {})
    reopen(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert (rendered, stage.batch_state()) == ([1], BatchState.COMPLETED)
    assert [line["index"] for line in stage.lines("results.jsonl")] == list(range(5))


def test_a_code_chooses_among_the_failures(stage: Stage) -> None:
    _ended(stage, 6, {0: BLACK, 2: UNSUPPORTED, 5: UNSUPPORTED})
    assert _retried(stage, "E_UNSUPPORTED") == 2
    rendered = _fails(stage, {})
    reopen(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert rendered == [2, 5]
    assert [line["custom_id"] for line in stage.lines("errors.jsonl")] == ["row-1"]
    assert stage.images() == ["failed"] + ["succeeded"] * 5


@pytest.mark.parametrize(("retryable", "codes"), [(False, ()), (True, ("E_OOM",)), (False, ("E_BLACK",))])
def test_without_a_failure_to_retry_the_batch_stays_as_it_is(
    stage: Stage, retryable: bool, codes: tuple[str, ...]
) -> None:
    _ended(stage, 2, {1: BLACK}, retryable=retryable)
    record = stage.ledger.batches.get("b")
    retried = request_retry(stage.ledger, stage.artifacts, "b", codes)
    assert (retried.images, retried.failed) == (0, {"E_BLACK": 1})
    assert stage.ledger.batches.get("b") == record
    assert stage.artifacts.head("batches/b/_SUCCESS") is not None


def test_an_image_that_was_given_up_with_its_job_has_all_its_attempts_again(stage: Stage) -> None:
    stage.batch(2)
    stage.node.play = lambda _: [AttemptOutcome(Code.ENGINE_ERROR, "boom")]
    stage.work()
    stage.finalized()
    assert _retried(stage, "E_ATTEMPTS_EXHAUSTED") == 2
    reopen(stage.worker, "b")
    stage.node.play = lambda spec: (
        [AttemptOutcome(Code.ENGINE_ERROR, "boom")] if spec.number < 6 else stage.all_well(spec)
    )
    stage.work()
    assert stage.images() == ["succeeded"] * 2
    attempt = stage.job().attempt
    assert attempt is not None
    assert attempt.number == 6  # names are never used twice


def test_a_cancelled_batch_can_be_taken_up_again(stage: Stage) -> None:
    stage.batch(4)
    render_one = stage.new_worker("w2")
    rendered = _fails(stage, {})
    lease = render_one.ledger.leases.claim("w2", 60)
    assert lease is not None
    render_one.ledger.leases.release(lease.job.ref, lease.fence, delay_s=600)
    render(render_one)  # the second job, of one image
    request_cancel(stage.ledger, "b")
    tick.tick(stage.worker)
    cancel(stage.worker, "b")
    stage.finalized()
    assert stage.images() == ["cancelled"] * 3 + ["succeeded"]
    assert _retried(stage) == 3
    reopen(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert (stage.batch_state(), rendered) == (BatchState.COMPLETED, [3, 0, 1, 2])
    assert stage.artifacts.head("batches/b/_CANCELLED") is None


def test_a_batch_that_has_not_ended_is_refused(stage: Stage) -> None:
    stage.batch(1)
    with pytest.raises(RequestError, match="b is in_progress; a batch that has ended wanted"):
        _retried(stage)
    with pytest.raises(UnknownBatch):
        request_retry(stage.ledger, stage.artifacts, "nobody", ())


def test_two_who_ask_at_once_open_it_once(stage: Stage) -> None:
    _ended(stage, 3, {1: BLACK})
    assert _retried(stage) == 1
    with pytest.raises(RequestError, match="is validating"):
        _retried(stage)
    reopen(stage.worker, "b")
    revision = stage.job().revision
    reopen(stage.worker, "b")
    assert stage.job().revision == revision


def test_a_lost_message_is_made_up_by_the_tick(stage: Stage) -> None:
    _ended(stage, 3, {1: BLACK})
    _retried(stage)
    finalize(stage.worker, "b")  # a doubled message
    assert stage.batch_state() is BatchState.VALIDATING
    tick.tick(stage.worker)
    assert "tessera.reopen" in stage.hints()


@pytest.mark.parametrize("after", range(4))
def test_a_controller_killed_in_the_middle_of_opening_is_made_up_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    _ended(stage, 9, {1: BLACK, 4: BLACK, 8: BLACK})
    _retried(stage)
    write, calls = stage.worker.ledger.jobs.write, [0]

    def dies(*args: object, **kwargs: object) -> int:
        if calls[0] == after:
            raise Killed
        calls[0] += 1
        return write(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stage.worker.ledger.jobs, "write", dies)
        if after < 3:
            with pytest.raises(Killed):
                reopen(stage.worker, "b")
    rendered = _fails(stage, {})
    if after == 1:
        render(stage.new_worker("early"))  # a worker takes the first job before the rest is opened
        assert rendered == [1]
    reopen(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert sorted(rendered) == [1, 4, 8]
    assert stage.images() == ["succeeded"] * 9


@pytest.mark.parametrize("point", ["images.reopen", "jobs.write"])
def test_a_worker_killed_while_it_clears_failures_away_is_made_up_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    _ended(stage, 3, {0: BLACK, 1: BLACK})
    _retried(stage)
    reopen(stage.worker, "b")
    rendered = _fails(stage, {})
    dying = stage.new_worker("dying", lease_s=600.0)
    part, name = point.split(".")

    def dies(*_: object, **__: object) -> int:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(getattr(dying.ledger, part), name, dies)
        with pytest.raises(Killed):
            render(dying)
    stage.lease_ends()
    stage.work()
    stage.finalized()
    assert rendered == [0, 1]
    assert stage.images() == ["succeeded"] * 3


def test_a_batch_cancelled_before_it_was_opened_keeps_its_outcomes(stage: Stage) -> None:
    _ended(stage, 3, {1: BLACK})
    _retried(stage)
    request_cancel(stage.ledger, "b")
    reopen(stage.worker, "b")
    stage.finalized()
    assert stage.batch_state() is BatchState.CANCELLED
    assert [line["code"] for line in stage.lines("errors.jsonl")] == ["E_BLACK"]
    assert len(stage.lines("results.jsonl")) == 2


def test_while_it_runs_its_files_do_not_say_that_it_is_over(stage: Stage) -> None:
    _ended(stage, 2, {1: BLACK})
    _retried(stage)
    reopen(stage.worker, "b")
    objects = BatchObjects("b")
    for key in (objects.results, objects.errors, "batches/b/_SUCCESS"):
        assert stage.artifacts.head(key) is None
