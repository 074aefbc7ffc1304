"""A batch whose record in Redis is damaged: it is written again from the bucket, and can be cancelled and purged."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from pipeline import Batch, Client
from pipeline.client.connect import Connection
from pipeline.errors import RecordTooNew, RequestError, UnknownBatch
from pipeline.operations.discrepancies import DiscrepancyKind
from pipeline.operations.priority import request_priority
from pipeline.records.attempt import AttemptOutcome, Code
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tasks.app import render
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tasks.control.purge import purge
from tasks.control.reconcile import Reconciled, reconcile
from tasks.control.tick import recover_batches, request_next_step
from tasks.control.wake import look
from tasks.process.metrics import LedgerMetrics
from tests.tasks.stage import Stage

OBJECTS = BatchObjects("b")

Harm = Callable[[Stage], object]


def _record(text: bytes) -> Harm:
    def harm(stage: Stage) -> None:
        stage.ledger.store.redis.hset(stage.ledger.store.keys.batch("b"), "record", text)

    return harm


def _another_type(stage: Stage, batch_id: str = "b") -> None:
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    for key in (keys.batch(batch_id), keys.counts(batch_id)):
        redis.delete(key)
        redis.set(key, "x")


def _key_of_another_type(name: str) -> Harm:
    def harm(stage: Stage) -> None:
        key = getattr(stage.ledger.store.keys, name)("b")
        stage.ledger.store.redis.delete(key)
        stage.ledger.store.redis.hset(key, "x", "y")

    return harm


HARMS: dict[str, Harm] = {
    "cut": _record(b'{"schema_version": 1, "man'),
    "bytes": _record(b"\xff\xfe"),
    "empty": _record(b""),
    "gone": lambda stage: stage.ledger.store.redis.hdel(stage.ledger.store.keys.batch("b"), "record"),
    "another type": _another_type,
    "counters": lambda stage: stage.ledger.store.redis.hset(
        stage.ledger.store.keys.counts("b"), "image.queued", "many"
    ),
    "images": _key_of_another_type("images"),
    "jobs": _key_of_another_type("jobs"),
    "state": lambda stage: stage.ledger.store.redis.hset(stage.ledger.store.keys.batch("b"), "state", "odd"),
}
each_harm = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
of_the_record = pytest.mark.parametrize("harm", [HARMS["cut"], HARMS["another type"]])


def _batch(stage: Stage) -> Batch:
    return Client(Connection(stage.settings, stage.ledger, stage.artifacts)).batch("b")


def _look(stage: Stage) -> None:
    """What a controller does that a client woke."""
    assert stage.ledger.wakes.take(5.0) == "b"
    look(stage.worker, "b")
    assert "tessera.reconcile" in stage.hints()
    reconcile(stage.worker, "b")


@each_harm
def test_a_repair_writes_it_again(stage: Stage, harm: Harm) -> None:
    stage.batch(5)
    stage.work()
    stage.finalized()
    harm(stage)
    found = _batch(stage).verify(repair=True)
    assert {one.kind for one in found.discrepancies} == {DiscrepancyKind.RECORD_DAMAGED}
    assert found.succeeded == 5
    _look(stage)
    expand(stage.worker, "b")
    assert (stage.batch_state(), stage.images()) == (BatchState.COMPLETED, ["succeeded"] * 5)
    assert _batch(stage).verify(deep=True).ok


@each_harm
def test_the_controller_finds_it_by_itself_and_it_goes_on(stage: Stage, harm: Harm) -> None:
    stage.batch(9)
    launched = len(stage.node.launched)
    harm(stage)
    request_next_step(stage.worker, "b")
    assert "tessera.reconcile" in stage.hints()
    assert reconcile(stage.worker, "b") is Reconciled.REBUILT
    expand(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert stage.images() == ["succeeded"] * 9
    assert len(stage.node.launched) == launched + 3
    assert _batch(stage).verify().ok


@pytest.mark.parametrize("name", ["events", "parked", "begun"])
def test_what_only_the_controller_sees_is_mended_too_and_changes_since_are_kept(stage: Stage, name: str) -> None:
    stage.batch(5)
    request_priority(stage.ledger, "b", 1)
    _key_of_another_type(name)(stage)
    request_next_step(stage.worker, "b")
    assert "tessera.reconcile" in stage.hints()
    assert reconcile(stage.worker, "b") is Reconciled.REBUILT
    expand(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert (stage.images(), stage.ledger.batches.get("b").priority) == (["succeeded"] * 5, 1)
    stage.ledger.batches.check("b", waiting=True)


@pytest.mark.parametrize("in_the_bucket", [True, False])
def test_jobs_of_a_batch_that_was_lost_end_no_worker_and_are_made_again(stage: Stage, in_the_bucket: bool) -> None:
    """The key of the batch alone is gone: its jobs can still be claimed."""
    stage.batch(5)
    stage.node.play = lambda _: [AttemptOutcome(Code.PREEMPTED, "spot")]
    render(stage.worker)
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    redis.delete(keys.batch("b"))
    if not in_the_bucket:
        for key in list(stage.artifacts.list(OBJECTS.root)):
            stage.artifacts.delete(key)
    stage.node.play = stage.all_well
    stage.soon(lambda: stage.ledger.leases.promote() and stage.ledger.leases.backlog() == 2, "delays are over")
    render(stage.worker)
    assert not redis.zcard(keys.leases)
    assert (stage.ledger.leases.backlog(), redis.zcard(keys.delayed)) == (0, 0)
    recover_batches(stage.worker)
    if not in_the_bucket:
        assert not stage.ledger.batches.known("b")
        return
    expand(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert (stage.batch_state(), stage.images()) == (BatchState.COMPLETED, ["succeeded"] * 5)
    assert _batch(stage).verify(deep=True).ok


@pytest.mark.parametrize("record", [b"{", None], ids=["cut", "another type"])
def test_a_repair_makes_the_record_of_a_job_that_had_ended_anew(stage: Stage, record: bytes | None) -> None:
    stage.batch(5)
    stage.work()
    stage.finalized()
    redis, key = stage.ledger.store.redis, stage.ledger.store.keys.job("b/00000")
    if record is None:
        redis.delete(key)
        redis.set(key, "x")
    else:
        redis.hset(key, "record", record)
    stage.ledger.store.redis.setrange(stage.ledger.store.keys.images("b"), 0, b"\xff")
    kinds = {one.kind for one in _batch(stage).verify(repair=True).discrepancies}
    assert kinds == {DiscrepancyKind.JOBS_DIFFER, DiscrepancyKind.IMAGE_STATES_DIFFER}
    _look(stage)
    expand(stage.worker, "b")
    assert (stage.batch_state(), stage.images()) == (BatchState.COMPLETED, ["succeeded"] * 5)
    assert _batch(stage).verify(deep=True).ok


@pytest.mark.parametrize("name", ["job", "ticket", "claim"])
def test_a_key_of_a_job_of_another_type_costs_no_other_job_anything(stage: Stage, name: str) -> None:
    stage.batch(3)
    stage.batch(3, "c")
    redis, key = stage.ledger.store.redis, getattr(stage.ledger.store.keys, name)("b/00000")
    redis.delete(key)
    redis.rpush(key, "x")
    for batch_id in ("b", "c"):
        stage.work(batch_id)
        stage.finalized(batch_id)
        assert stage.images(batch_id) == ["succeeded"] * 3
    assert _batch(stage).verify().ok


@of_the_record
def test_it_can_be_cancelled(stage: Stage, harm: Harm) -> None:
    stage.batch(5)
    harm(stage)
    states: list[BatchState] = []
    client = threading.Thread(target=lambda: states.append(_batch(stage).cancel()), daemon=True)
    client.start()
    _look(stage)
    client.join(30)
    assert states == [BatchState.CANCELLING]
    expand(stage.worker, "b")
    cancel(stage.worker, "b")
    stage.finalized()
    assert (stage.batch_state(), stage.images()) == (BatchState.CANCELLED, ["cancelled"] * 5)


@pytest.mark.parametrize(
    ("harm", "manifest"),
    [(HARMS["cut"], "there"), (HARMS["gone"], "damaged"), (HARMS["another type"], "gone")],
)
def test_it_can_be_purged(stage: Stage, harm: Harm, manifest: str) -> None:
    stage.batch(3)
    stage.work()
    stage.finalized()
    harm(stage)
    if manifest == "damaged":
        stage.artifacts.put(OBJECTS.manifest, b"{", content_type="application/json")
    elif manifest == "gone":
        stage.artifacts.delete(OBJECTS.manifest)
    _batch(stage).purge()
    _look(stage)
    purge(stage.worker, "b")
    with pytest.raises(UnknownBatch):
        stage.ledger.batches.get("b")
    assert list(stage.artifacts.list(OBJECTS.root)) == []
    assert not stage.ledger.store.redis.keys(f"{stage.settings.redis_prefix}:*b/*")
    assert "b" not in stage.ledger.batches.unfinished()


def test_one_under_way_is_not_purged(stage: Stage) -> None:
    stage.batch(3)
    HARMS["cut"](stage)
    with pytest.raises(RequestError, match="cancel it first"):
        _batch(stage).purge()


def test_one_of_which_the_bucket_has_nothing_is_forgotten(stage: Stage) -> None:
    stage.batch(3)
    for key in list(stage.artifacts.list(OBJECTS.root)):
        stage.artifacts.delete(key)
    HARMS["bytes"](stage)
    assert reconcile(stage.worker, "b") is Reconciled.REMOVED
    assert not stage.ledger.batches.known("b")


def test_neither_ledger_nor_bucket_can_be_read(stage: Stage) -> None:
    stage.batch(3)
    HARMS["bytes"](stage)
    stage.artifacts.put(OBJECTS.manifest, b"{", content_type="application/json")
    assert reconcile(stage.worker, "b") is Reconciled.UNREADABLE
    assert [one.kind for one in _batch(stage).verify().discrepancies] == [
        DiscrepancyKind.UNREADABLE,
        DiscrepancyKind.RECORD_DAMAGED,
    ]


def test_what_a_later_version_wrote_is_left_to_it(stage: Stage) -> None:
    stage.batch(3)
    text = b'{"schema_version": 99}'
    _record(text)(stage)
    for act in (_batch(stage).cancel, _batch(stage).purge, lambda: reconcile(stage.worker, "b")):
        with pytest.raises(RecordTooNew):
            act()
    assert stage.ledger.store.redis.hget(stage.ledger.store.keys.batch("b"), "record") == text.decode()


def test_it_costs_itself_only(stage: Stage) -> None:
    """Lists, quotas, metrics and the comparison of a ledger in doubt go on with all others."""
    for name in ("b", "c", "d"):
        stage.batch(2, name)
        stage.work(name)
        stage.finalized(name)
    stage.batch(3, "e")
    stage.batch(4, "f")
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    for name in ("b", "e"):
        _another_type(stage, name)
    redis.hset(keys.counts("c"), "job.failed", "many")
    assert stage.ledger.batches.open_images("default") == {"f": 4}
    registry = CollectorRegistry()
    registry.register(LedgerMetrics(stage.ledger))
    assert registry.get_sample_value("tessera_ledger_up") == 1
    assert registry.get_sample_value("tessera_open_images", {"state": "queued"}) == 4
    assert {one if isinstance(one, str) else one[0] for one in stage.ledger.batches.ended()} == {"b", "c", "d"}
