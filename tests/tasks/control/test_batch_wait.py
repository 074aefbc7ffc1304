"""What keeps a batch's next step from being taken is seen in its status, for as long as it does."""

from __future__ import annotations

import pytest

from pipeline.deployment.broker import EXPAND
from pipeline.errors import StoreUnavailable
from pipeline.operations.status import batch_status
from pipeline.states import BatchState
from tasks import app
from tasks.control.expand import expand
from tasks.process.context import Context
from tests.tasks.stage import Stage


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
