"""What keeps a batch's next step from being taken is seen in its status, for as long as it does."""

from __future__ import annotations

import pytest

from pipeline.deployment.broker import CANCEL, EXPAND, PURGE
from pipeline.errors import StoreUnavailable
from pipeline.operations.cancel import request_cancel
from pipeline.operations.purge import request_purge
from pipeline.operations.status import batch_status
from pipeline.records.batch import Purge, advance
from pipeline.records.end_marker import read_marker
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tasks import app
from tasks.control.expand import expand
from tasks.control.purge import purge
from tasks.process.context import Context
from tests.tasks.stage import Stage

OBJECTS = BatchObjects("b")
MOST_ERRORS = 3


@pytest.fixture(autouse=True)
def few_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.control.internal_errors.MOST_ERRORS", MOST_ERRORS)
    monkeypatch.setattr("tasks.control.internal_errors.AT_LEAST_S", 0.0)


def test_a_step_that_is_put_off_says_why_until_it_is_taken(stage: Stage) -> None:
    away = [True]

    def step(context: Context, batch_id: str) -> None:
        if away:
            raise StoreUnavailable("S3 does not answer")
        expand(context, batch_id)

    run = app._bind(stage.worker, EXPAND, step)
    stage.accepted(2)
    for _ in range(2):
        run("b")
        assert batch_status(stage.ledger, "b").reason == "S3 does not answer"
    wait = stage.ledger.batches.get("b").wait
    assert wait is not None
    assert wait.times == 1
    away.clear()
    run("b")
    assert stage.ledger.batches.get("b").wait is None
    assert batch_status(stage.ledger, "b").reason == (
        "waits for a render worker: none is alive (`tessera doctor` says more)"
    )
    assert stage.batch_state() is BatchState.IN_PROGRESS


@pytest.mark.parametrize("batch_id", ["b", "never"])
def test_a_batch_that_has_ended_or_is_unknown_waits_for_nothing(stage: Stage, batch_id: str) -> None:
    def step(_: Context, __: str) -> None:
        raise StoreUnavailable("away")

    stage.batch(1)
    stage.work()
    stage.finalized()
    app._bind(stage.worker, EXPAND, step)(batch_id)
    assert batch_status(stage.ledger, "b").reason is None


def _broken(_: Context, __: str) -> None:
    raise KeyError("row")


@pytest.mark.parametrize("state", ["validating", "in_progress", "cancelling", "paused", "finalizing"])
def test_a_step_that_our_program_fails_over_says_so_and_fails_its_batch_in_the_end(stage: Stage, state: str) -> None:
    if state == "validating":
        stage.accepted(5)
    else:
        stage.batch(5)
        record = stage.ledger.batches.get("b")
        if state != "in_progress":
            stage.ledger.batches.write(advance(record, BatchState(state), at=stage.ledger.now()))
    run = app._bind(stage.worker, EXPAND, _broken)
    for _ in range(MOST_ERRORS - 1):
        run("b")
    assert stage.batch_state().value == state
    assert "KeyError: 'row'" in (batch_status(stage.ledger, "b").reason or "")
    run("b")
    assert stage.batch_state() is BatchState.FAILED
    reason = "KeyError: 'row' (3 times; the controllers' logs say where)"
    assert batch_status(stage.ledger, "b").reason == reason
    marker = stage.artifacts.get(OBJECTS.marker(BatchState.FAILED)) or b""
    assert read_marker(marker, BatchState.FAILED, what="marker").reason == reason
    assert (stage.ledger.batches.unfinished(), stage.ledger.leases.backlog()) == ([], 0)


def test_a_cancelled_batch_that_failed_so_can_be_purged(stage: Stage) -> None:
    stage.batch(5)
    request_cancel(stage.ledger, "b")
    request_purge(stage.ledger, stage.artifacts, "b", Purge.EVERYTHING)
    for _ in range(MOST_ERRORS):
        app._bind(stage.worker, PURGE, purge)("b")  # takes its turn between the tries
        app._bind(stage.worker, CANCEL, _broken)("b")
    assert stage.batch_state() is BatchState.FAILED
    purge(stage.worker, "b")
    assert not stage.ledger.batches.known("b")
    assert list(stage.artifacts.list(OBJECTS.root)) == []


def test_a_bad_release_that_is_taken_back_soon_costs_no_batch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.control.internal_errors.AT_LEAST_S", 3600.0)
    stage.accepted(2)
    for _ in range(2 * MOST_ERRORS):
        app._bind(stage.worker, EXPAND, _broken)("b")
    assert stage.batch_state() is BatchState.VALIDATING
    assert batch_status(stage.ledger, "b").reason == "KeyError: 'row'"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_what_the_machine_lacks_is_waited_for(stage: Stage, error: Exception) -> None:
    def step(_: Context, __: str) -> None:
        raise error

    stage.accepted(2)
    for _ in range(2 * MOST_ERRORS):
        app._bind(stage.worker, EXPAND, step)("b")
    assert stage.batch_state() is BatchState.VALIDATING
    assert batch_status(stage.ledger, "b").reason


def test_a_count_that_is_no_number_is_begun_again(stage: Stage) -> None:
    redis, key = stage.ledger.store.redis, stage.ledger.store.keys.stumbles("x")
    redis.set(key, "many")
    assert [stage.ledger.locks.count("x", 60)[0] for _ in range(2)] == [1, 2]
    redis.delete(key)
    redis.rpush(key, "x")
    assert [stage.ledger.locks.count("x", 60)[0] for _ in range(2)] == [1, 2]
