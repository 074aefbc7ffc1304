"""A field of a job's hash that is not of its record: the job is mended, and keeps no other from its slot."""

from __future__ import annotations

import pytest

from pipeline.operations.cancel import request_cancel
from pipeline.states import BatchState, JobState
from tasks.app import render
from tasks.control.cancel import cancel
from tests.tasks.stage import Stage

REVISIONS = ["7", "0", "", "07", "-3", "many", "99999999999999999999"]


def _write(stage: Stage, field: str, text: str, index: int = 0) -> None:
    stage.ledger.store.redis.hset(stage.ledger.store.keys.job(f"b/{index:05d}"), field, text)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.ledger.leases", "tasks.jobs.run_job"):
        monkeypatch.setattr(f"{module}.UNREADABLE_DELAY_S", 0.05)
    monkeypatch.setattr("tasks.jobs.run_job.STALE_PAUSE_S", 0.01)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_that_is_not_that_of_the_record_costs_the_job_no_more_than_a_new_record(
    stage: Stage, revision: str
) -> None:
    stage.batch(5)
    _write(stage, "revision", revision)
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 5
    assert not stage.ledger.store.redis.zcard(stage.ledger.store.keys.leases)


@pytest.mark.parametrize("revision", REVISIONS)
def test_its_batch_can_be_cancelled_without_a_worker(stage: Stage, revision: str) -> None:
    stage.batch(5)
    _write(stage, "revision", revision)
    request_cancel(stage.ledger, "b")
    cancel(stage.worker, "b")  # mends it
    cancel(stage.worker, "b")
    assert not stage.ledger.jobs.any_unfinished("b")
    stage.finalized()
    assert stage.batch_state() is BatchState.CANCELLED


def test_a_worker_that_meets_it_in_a_cancelled_batch_ends_it(stage: Stage) -> None:
    stage.batch(5)
    _write(stage, "revision", "7")
    request_cancel(stage.ledger, "b")
    stage.work()
    assert {stage.state(0), stage.state(1)} == {JobState.CANCELLED}


def test_a_count_of_internal_errors_that_is_no_number_is_begun_again(stage: Stage) -> None:
    stage.batch(5)
    _write(stage, "record", "{")
    _write(stage, "stumbles", "many")
    render(stage.worker)
    assert stage.state(1) is JobState.SUCCEEDED
    stage.work()
    assert stage.images() == ["succeeded"] * 5


@pytest.mark.parametrize("where", ["beside the record", "in it", "both"])
def test_an_incarnation_that_is_not_the_batchs_costs_the_job_no_more_than_a_new_record(
    stage: Stage, where: str
) -> None:
    stage.batch(5)
    if where != "in it":
        _write(stage, "incarnation", "0badbeef")
    if where != "beside the record":
        job = stage.ledger.jobs.get("b/00000")
        assert job is not None
        _write(stage, "record", job.model_copy(update={"incarnation": "0badbeef"}).model_dump_json())
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 5
