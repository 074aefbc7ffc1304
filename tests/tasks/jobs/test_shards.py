"""A shard that is gone is cut from the rows again; if they are gone too, the batch fails and says why."""

from __future__ import annotations

import pytest

from pipeline.errors import StoreUnavailable
from pipeline.operations.cancel import request_cancel
from pipeline.records.attempt import AttemptSpec
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, JobState
from tasks.control.cancel import cancel
from tasks.jobs.shards import ShardLost, rebuild_shard
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage

OBJECTS = BatchObjects("b")


def _shards(stage: Stage, jobs: int = 3) -> list[bytes | None]:
    return [stage.artifacts.get(OBJECTS.shard(index)) for index in range(jobs)]


def _input(stage: Stage) -> str:
    return OBJECTS.input(stage.ledger.batches.get("b").manifest.staged)


def test_all_that_are_gone_are_written_again_as_they_were_and_others_are_left_alone(stage: Stage) -> None:
    stage.batch(7)
    before = _shards(stage)
    stage.artifacts.delete(OBJECTS.shard(0))
    stage.artifacts.delete(OBJECTS.shard(2))
    stage.artifacts.put(OBJECTS.shard(1), b"another", content_type="text/plain")
    rebuild_shard(stage.worker, "b", 2)
    assert _shards(stage) == [before[0], b"another", before[2]]
    stage.artifacts.delete(OBJECTS.shard(1))
    rebuild_shard(stage.worker, "b", 1)
    assert _shards(stage) == before


def test_it_follows_the_plan_that_was_stored_whatever_the_settings_are_now(stage: Stage) -> None:
    stage.batch(7)
    before = _shards(stage)
    stage.artifacts.delete(OBJECTS.shard(1))
    rebuild_shard(stage.new_worker("other", images_per_job=5), "b", 1)
    assert _shards(stage) == before


def test_one_that_was_only_late_costs_no_look_at_the_rows(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.batch(3)

    def never(key: str) -> None:
        pytest.fail(f"{key} was read")

    monkeypatch.setattr(stage.artifacts, "lines", never)
    rebuild_shard(stage.worker, "b", 0)


def test_two_do_not_do_it_at_the_same_time(stage: Stage) -> None:
    stage.batch(3)
    stage.artifacts.delete(OBJECTS.shard(0))
    with stage.ledger.locks.only_one("shards-b"), pytest.raises(StoreUnavailable, match="another process"):
        rebuild_shard(stage.worker, "b", 0)


@pytest.mark.parametrize("rows", [None, b'{"row":1}\n'], ids=["gone", "others"])
def test_without_the_accepted_rows_the_batch_fails_by_name_and_nothing_is_written(
    stage: Stage, rows: bytes | None
) -> None:
    stage.batch(7)
    stage.artifacts.delete(OBJECTS.shard(1))
    if rows is None:
        stage.artifacts.delete(_input(stage))
    else:
        stage.artifacts.put(_input(stage), rows, content_type="text/plain")
    with pytest.raises(ShardLost, match=r"shards/00001\.jsonl is gone"):
        rebuild_shard(stage.worker, "b", 1)
    assert stage.artifacts.head(OBJECTS.shard(1)) is None
    record = stage.ledger.batches.get("b")
    assert (record.state, OBJECTS.shard(1) in (record.reason or "")) == (BatchState.CANCELLING, True)
    assert _input(stage) in (record.reason or "")


def test_a_job_whose_shard_is_gone_is_rendered_all_the_same(stage: Stage) -> None:
    stage.batch(7)
    stage.artifacts.delete(OBJECTS.shard(1))
    stage.work()
    stage.finalized()
    assert stage.images() == ["succeeded"] * 7
    assert stage.batch_state() is BatchState.COMPLETED


def test_a_batch_that_fails_keeps_what_is_committed_and_ends_every_job(stage: Stage) -> None:
    stage.batch(7)

    def play(spec: AttemptSpec) -> Play:
        def lose_the_rest() -> None:
            stage.artifacts.delete(OBJECTS.shard(1))
            stage.artifacts.delete(_input(stage))

        return [lambda: stage.pods_work(spec), lose_the_rest, SUCCEEDED]

    stage.node.play = play
    stage.work()
    stage.finalized()
    record = stage.ledger.batches.get("b")
    assert (record.state, OBJECTS.shard(1) in (record.reason or "")) == (BatchState.FAILED, True)
    assert [stage.state(index) for index in range(3)] == [JobState.SUCCEEDED, JobState.CANCELLED, JobState.CANCELLED]
    assert [line["index"] for line in stage.lines("results.jsonl")] == [0, 1, 2]
    assert stage.ledger.leases.backlog() == 0
    assert stage.artifacts.head(OBJECTS.marker(BatchState.FAILED)) is not None


def test_a_batch_that_a_user_cancels_ends_as_cancelled_also_without_its_rows(stage: Stage) -> None:
    stage.batch(7)
    stage.artifacts.delete(OBJECTS.shard(1))
    stage.artifacts.delete(_input(stage))
    request_cancel(stage.ledger, "b")
    cancel(stage.worker, "b")
    stage.finalized()
    assert stage.batch_state() is BatchState.CANCELLED
    assert len(stage.lines("errors.jsonl")) == 4
