"""A controller that is asked looks at once, whatever it was asked before."""

from __future__ import annotations

import threading

from pipeline.deployment.broker import CANCEL, EXPAND, PURGE, RECONCILE, RENDER
from pipeline.operations.cancel import request_cancel
from pipeline.operations.purge import request_purge
from pipeline.records.batch import Purge
from pipeline.states import BatchState
from tasks.control.wake import follow_wakes, look
from tests.tasks.stage import Stage


def test_what_a_batch_needs_follows_from_its_record(stage: Stage) -> None:
    stage.accepted(1, "new")
    look(stage.worker, "new")
    assert stage.hints() == [EXPAND]
    stage.batch(1, "b")
    request_cancel(stage.ledger, "b")
    look(stage.worker, "b")
    assert stage.hints()[0] == CANCEL


def test_an_unknown_or_unreadable_batch_costs_nothing(stage: Stage) -> None:
    stage.batch(1, "b")
    stage.ledger.store.redis.hset(stage.ledger.store.keys.batch("b"), "record", "{")
    look(stage.worker, "b")
    look(stage.worker, "nobody")
    assert set(stage.hints()) <= {RENDER, RECONCILE}  # a damaged record is written again


def test_one_after_the_other_is_looked_at_until_the_worker_stops(stage: Stage) -> None:
    stage.accepted(1, "b")
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    redis.hset(keys.batch("damaged"), mapping={"record": "\x00"})
    redis.zadd(keys.wakes, {"../x": 0, "damaged": 0, "b": 0})
    thread = threading.Thread(target=follow_wakes, args=(stage.worker,))
    thread.start()
    stage.soon(lambda: EXPAND in stage.hints(), "a hint for the batch")
    stage.worker.stopping.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_purge_is_asked_for(stage: Stage) -> None:
    stage.batch(1, "b")
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    request_purge(stage.ledger, stage.artifacts, "b", Purge.EVERYTHING)
    look(stage.worker, "b")
    assert PURGE in stage.hints()
