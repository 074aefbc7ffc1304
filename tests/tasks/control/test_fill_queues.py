"""A queue of the ledger is lost, damaged, or has entries that are none: work goes on, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline import Client
from pipeline.client.connect import Connection
from pipeline.ledger.keys import Keys
from pipeline.states import BatchState
from tasks.control import fill_queues
from tasks.control.tick import tick
from tasks.control.verify_ledger import verify_ledger
from tests.tasks.stage import Stage

QUEUES: dict[str, Callable[[Keys], str]] = {
    "backlog": lambda keys: keys.backlog("default"),
    "tenants": lambda keys: keys.tenants,
    "leases": lambda keys: keys.leases,
    "delayed": lambda keys: keys.delayed,
    "open": lambda keys: keys.open,
    "batches": lambda keys: keys.batches,
    "slots": lambda keys: keys.slots,
}
NO_JOBS = ("zz", "b/00000x", "../../x", "b/99999", "b/00000/1", "nobody/00000", "{", "b/")


@pytest.fixture(autouse=True)
def _every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill_queues, "JOBS_EVERY_S", 0.0)
    monkeypatch.setattr(fill_queues, "LISTS_EVERY_S", 0.0)


def _ends_well(stage: Stage, images: int = 5) -> None:
    tick(stage.worker)
    stage.work()
    stage.finalized()
    assert (stage.batch_state(), stage.images()) == (BatchState.COMPLETED, ["succeeded"] * images)
    assert len(set(stage.node.launched)) == len(stage.node.launched)
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    assert not any(map(int, redis.hvals(keys.tenants)))
    assert not redis.zcard(keys.leases)
    assert [batch.id for batch in Client(Connection(stage.settings, stage.ledger, stage.artifacts)).batches()] == ["b"]


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("damaged", [False, True], ids=["lost", "of another type"])
def test_a_queue_that_is_lost_or_damaged_is_filled_again(stage: Stage, queue: str, damaged: bool) -> None:
    """One job is held by a worker that has died, the other waits to be claimed."""
    stage.batch(5)
    assert stage.ledger.leases.claim("dead", lease_s=0.1) is not None
    redis, key = stage.ledger.store.redis, QUEUES[queue](stage.ledger.store.keys)
    redis.delete(key)
    if damaged:
        redis.set(key, "x")
    _ends_well(stage)


@pytest.mark.parametrize(
    ("name", "text"),
    [("generation", None), ("due:bucket", None), ("due:jobs", "x"), ("rest:bucket", "x"), ("lock:tick", "x")],
)
def test_what_the_tick_itself_keeps_may_be_damaged(stage: Stage, name: str, text: str | None) -> None:
    tick(stage.worker)
    stage.batch(5)
    key = f"{stage.settings.redis_prefix}:{name}"
    redis = stage.ledger.store.redis
    redis.delete(key, stage.ledger.store.keys.rest("bucket"))
    redis.set(key, text) if text is not None else redis.rpush(key, "x")
    assert stage.ledger.locks.due("bucket", 0.0)
    tick(stage.worker)
    verify_ledger(stage.worker)
    _ends_well(stage)


def test_numbers_and_names_that_are_none_stop_nobody(stage: Stage) -> None:
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    redis.sadd(keys.speeds, "zz", "[1]")
    stage.batch(5)
    redis.hset(keys.tenants, mapping={"default": "zz", "nobody": "{", "other": "nan"})
    stage.ledger.workers.report("w1", 1)
    redis.hset(keys.slots, "w1", "many")
    assert stage.ledger.leases.claim("dead", lease_s=0.1) is not None
    tick(stage.worker)
    redis.hset(keys.tenants, "default", "zz")
    _ends_well(stage)


def test_entries_that_are_no_jobs_go_and_are_counted_for_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ledger.leases.UNREADABLE_DELAY_S", 0.05)
    stage.batch(5)
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    for key in (keys.backlog("default"), keys.leases, keys.delayed, keys.jobs("b"), keys.begun("b")):
        redis.zadd(key, dict.fromkeys(NO_JOBS, 0))
    redis.sadd(keys.open, *NO_JOBS)
    redis.zadd(keys.batches, dict.fromkeys(NO_JOBS, 0))
    tick(stage.worker)
    stage.work()
    stage.finalized()
    assert (stage.batch_state(), stage.images()) == (BatchState.COMPLETED, ["succeeded"] * 5)
    stage.soon(lambda: stage.ledger.leases.promote() and not redis.zcard(keys.delayed), "delays are over")
    assert not redis.zcard(keys.backlog("default"))
    assert not any(map(int, redis.hvals(keys.tenants)))


def test_a_job_that_stands_nowhere_and_has_no_record_gets_another(stage: Stage) -> None:
    stage.batch(5)
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    redis.delete(keys.backlog("default"), keys.job("b/00001"))
    _ends_well(stage)


def test_jobs_that_are_where_they_belong_stay_there(stage: Stage) -> None:
    stage.batch(12)
    lease = stage.ledger.leases.claim("w2", lease_s=60)
    assert lease is not None
    assert stage.ledger.leases.release(lease.job.ref, lease.fence, delay_s=60)
    held = stage.ledger.leases.claim("w2", lease_s=60)
    assert held is not None
    before = stage.ledger.store.redis.zrange(stage.ledger.store.keys.backlog("default"), 0, -1, withscores=True)
    fill_queues.fill_queues(stage.worker)
    assert stage.ledger.queues.requeue("b").jobs == 0
    assert stage.ledger.store.redis.zrange(stage.ledger.store.keys.backlog("default"), 0, -1, withscores=True) == before
