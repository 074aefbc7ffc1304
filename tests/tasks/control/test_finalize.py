"""The results of a batch: in order, complete, and the same however often they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.picture import Format
from pipeline.records.attempt import AttemptSpec
from pipeline.records.batch import advance
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.states import BatchState
from tasks.control import finalize as module
from tasks.control.finalize import finalize
from tasks.control.write_results import AT_A_TIME, LOOKS_AT_A_TIME, Unproved, write_results
from tests.factories import at
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage

FILES = ("results.jsonl", "errors.jsonl", "gallery/index.html")


def _mixed(stage: Stage) -> None:
    """A batch of seven images in three jobs, done; the second image of each job failed; one row was invalid."""

    def play(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.commit([*pod.tasks[:1], *pod.tasks[2:]])
            pod.fail(pod.tasks[1:2])

        return [work, SUCCEEDED]

    stage.node.play = play
    prompts = [{"prompt": "<b>&p", "width": 64, "height": 64, "num_images": 2}, {"prompt": ""}]
    prompts += [{"prompt": f"p{number}", "width": 64, "height": 64} for number in range(5)]
    stage.batch(prompts=prompts, skip_invalid=True)
    stage.work()


def test_results_and_errors_hold_every_image_once_in_the_order_of_the_rows(stage: Stage) -> None:
    _mixed(stage)
    stage.finalized()
    results, errors = stage.lines("results.jsonl"), stage.lines("errors.jsonl")
    assert [line["index"] for line in results] == [0, 2, 3, 5, 6]
    assert errors[0] == {
        "schema_version": 1,
        "status": "invalid",
        "line": 2,
        "field": "prompt",
        "code": "E_INVALID",
        "message": "empty; a text wanted",
        "retryable": False,
    }
    assert [line["index"] for line in errors[1:]] == [1, 4]
    assert {line["sha256"] for line in results} != {""}
    assert stage.batch_state() is BatchState.COMPLETED


def test_finalizing_twice_writes_the_same_bytes(stage: Stage) -> None:
    _mixed(stage)
    stage.finalized()
    root = BatchObjects("b").root
    before = {name: stage.artifacts.get(root + name) for name in FILES}
    assert all(before.values())
    write_results(stage.worker, stage.ledger.batches.get("b").manifest, 3)
    assert {name: stage.artifacts.get(root + name) for name in FILES} == before
    assert b"<b>" not in (before["gallery/index.html"] or b"")


def test_the_marker_is_last_so_it_means_that_all_results_are_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mixed(stage)

    def killed(*_: object) -> None:
        assert stage.artifacts.head("batches/b/_SUCCESS") is None
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_results", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.finalized()
    assert stage.batch_state() is BatchState.FINALIZING
    stage.finalized()  # whoever comes next completes it
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.artifacts.head("batches/b/_SUCCESS") is not None


def test_each_fragment_is_read_once_and_few_at_a_time_however_many_there_are(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.batch(120)
    stage.work(timeout_s=120)
    get, fetched, ahead = stage.artifacts.get, [], []
    dump = ImageResult.model_dump_json

    def counted(key: str) -> bytes | None:
        if "fragments/" in key:
            fetched.append(key)
        return get(key)

    def written(result: ImageResult) -> str:
        ahead.append(len(fetched) - result.index // 3)
        return dump(result)

    monkeypatch.setattr("tasks.control.write_results.LOOKED_FOR", 6)  # images, of two jobs
    monkeypatch.setattr(stage.artifacts, "get", counted)
    monkeypatch.setattr(ImageResult, "model_dump_json", written)
    stage.finalized()
    assert len(fetched) == len(set(fetched)) == 40
    assert max(ahead) <= AT_A_TIME + 2 * (LOOKS_AT_A_TIME + 2)
    assert [line["index"] for line in stage.lines("results.jsonl")] == list(range(120))


def test_pictures_of_several_jobs_are_looked_for_with_one_list(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few images a job has. A picture that is gone is missed among those of other jobs."""
    stage.batch(30)
    stage.work()
    sizes_between, lists = stage.artifacts.sizes_between, []

    def counted(*asked: Any, **more: Any) -> Iterator[tuple[str, int]]:
        lists.append(asked)
        return sizes_between(*asked, **more)

    monkeypatch.setattr(stage.artifacts, "sizes_between", counted)
    stage.artifacts.delete(BatchObjects("b").image(17, 0, Format.PNG))
    with pytest.raises(Unproved, match=r"0000017-000\.png is gone"):
        write_results(stage.worker, stage.ledger.batches.get("b").manifest, 10)
    assert len(lists) == 1


def test_a_batch_with_jobs_left_is_not_finalized(stage: Stage) -> None:
    stage.batch(4)
    finalize(stage.worker, "b")
    assert stage.batch_state() is BatchState.IN_PROGRESS
    assert stage.artifacts.head(BatchObjects("b").results) is None


def test_a_batch_that_is_not_cut_yet_is_not_finalized(stage: Stage) -> None:
    stage.accepted(1)
    finalize(stage.worker, "b")
    assert stage.batch_state() is BatchState.VALIDATING


def test_a_batch_without_pictures_is_completed_and_its_files_are_there(stage: Stage) -> None:
    stage.batch(1)

    def play(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.fail(pod.tasks)

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.work()
    stage.finalized()
    assert stage.artifacts.get(BatchObjects("b").results) == b""
    assert len(stage.lines("errors.jsonl")) == 1


def test_a_failed_batch_is_left_as_it_is(stage: Stage) -> None:
    stage.accepted(1)
    record = stage.ledger.batches.get("b")
    stage.ledger.batches.write(advance(record, BatchState.FAILED, at=at(), jobs=0))
    finalize(stage.worker, "b")
    assert stage.batch_state() is BatchState.FAILED
