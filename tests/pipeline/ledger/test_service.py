"""Redis away, Redis that refuses, Redis that restarts; locks and workers."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from embedded.processes.child import Child
from embedded.services.endpoints import load_endpoints
from embedded.services.readiness import wait_until_ready
from embedded.services.services import Services
from embedded.services.valkey import check_valkey, valkey
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import Settings
from pipeline.errors import LedgerUnavailable, NoDeployment
from pipeline.ledger import Ledger
from pipeline.ledger import locks as locks_module
from pipeline.ledger import workers as workers_module
from pipeline.ledger.server.durability import check_durability, durability
from pipeline.records.batch import BatchRecord
from pipeline.states import ImageState
from tests.factories import INCARNATION, batch_record, deployment
from tests.pipeline.ledger.bench import Bench


def _elsewhere(settings: Settings, url: str) -> Ledger:
    return Ledger(Settings.model_validate(settings.model_dump() | {"redis_url": url}))


@pytest.mark.parametrize("user", ["", ":wr0ng-pass@", "somebody:wr0ng-pass@"])
def test_refused_credentials_are_named_with_what_to_do_and_without_the_password(
    settings: Settings, services: Services, user: str
) -> None:
    port = services.endpoints.ports["redis"]
    with pytest.raises(LedgerUnavailable, match=rf"127\.0\.0\.1:{port}.*TESSERA_REDIS_URL") as error:
        _elsewhere(settings, f"redis://{user}127.0.0.1:{port}/0").now()
    assert "wr0ng-pass" not in str(error.value)


def test_nobody_listening_is_said_within_seconds_with_what_to_do(settings: Settings) -> None:
    began = time.monotonic()
    ledger = _elsewhere(settings, "redis://:s3cr3t@127.0.0.1:9/0")
    for ask in (ledger.now, lambda: ledger.leases.claim("w", 60), lambda: ledger.batches.get("b")):
        with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:9.*does not answer.*TESSERA_REDIS_URL") as error:
            ask()
        assert "s3cr3t" not in str(error.value)
    assert time.monotonic() - began < 60


_NO_ROOM = ("CONFIG SET maxmemory 1",)
_REPLICA = ("REPLICAOF 127.0.0.1 1",)
_CUT_OFF = ("CONFIG SET replica-serve-stale-data no", *_REPLICA)
_LONELY = ("CONFIG SET min-replicas-to-write 1",)
_STRANGER = ("ACL SETUSER default resetkeys ~nothing",)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (_NO_ROOM, r"is full \(maxmemory\); give it room"),
        (_REPLICA, "is a replica, .*TESSERA_REDIS_URL must lead to the primary"),
        (_CUT_OFF, "has lost its primary; TESSERA_REDIS_URL must lead to the primary"),
        (_LONELY, "min-replicas-to-write"),
        (_STRANGER, "refuses us .* check user and password in TESSERA_REDIS_URL"),
    ],
)
def test_a_redis_that_may_not_be_written_is_an_outage_and_says_why(
    tmp_path: Path, settings: Settings, made: tuple[str, ...], said: str
) -> None:
    """From a script, from a command and from many sent at once."""
    (tmp_path / "r" / "logs").mkdir(parents=True)
    endpoints = load_endpoints(tmp_path / "r")
    server = Child(valkey(endpoints, tmp_path / "r", {}))
    server.start()
    try:
        wait_until_ready(server, lambda: check_valkey(endpoints), time.monotonic() + 60)
        ledger = _elsewhere(settings, endpoints.redis_url)
        for command in made:
            ledger.store.redis.execute_command(*command.split())
        steps: list[dict[str, str | int]] = [{"first": "a-lock", "every_ms": 1}, {"first": "another", "every_ms": 1}]
        for ask in (
            lambda: ledger.locks.due("a-lock", 1),
            lambda: ledger.batches.write(batch_record()),
            lambda: ledger.store.run_each("due", steps),
        ):
            with pytest.raises(LedgerUnavailable, match=said):
                ask()
    finally:
        server.send(signal.SIGKILL)


def test_redis_killed_and_restarted_in_between_keeps_everything(tmp_path: Path, settings: Settings) -> None:
    for folder in (tmp_path / "r", tmp_path / "r" / "logs"):
        folder.mkdir()
    endpoints = load_endpoints(tmp_path / "r")
    server = Child(valkey(endpoints, tmp_path / "r", {}))

    def start() -> None:
        server.start()
        wait_until_ready(server, lambda: check_valkey(endpoints), time.monotonic() + 60)

    start()
    try:
        ledger = _elsewhere(settings, endpoints.redis_url)
        bench = Bench(ledger)
        ledger.batches.create(batch_record())
        for index in range(2):
            bench.job("b", index)
        lease = bench.claimed()
        ledger.images.move_by_worker(
            "b", lease.job.ref, [1], ImageState.SUCCEEDED, incarnation=INCARNATION, fence=lease.fence
        )
        server.send(signal.SIGKILL)
        server = Child(valkey(endpoints, tmp_path / "r", {}))
        start()
        # The same connection pool and the same registered scripts.
        ledger.leases.renew(lease.job.ref, lease.fence, 60)
        assert ledger.batches.get("b") == batch_record()
        assert ledger.images.states("b", [0, 1]) == [ImageState.QUEUED, ImageState.SUCCEEDED]
        assert ledger.batches.counts("b").images[ImageState.SUCCEEDED] == 1
        assert bench.claimed("w2").job.index == 1
        assert ledger.leases.claim("w3", 60) is None
    finally:
        server.send(signal.SIGKILL)


def test_the_embedded_redis_is_as_durable_as_a_ledger_needs(ledger: Ledger) -> None:
    assert [(trait.name, trait.found, trait.wrong) for trait in durability(ledger.store)] == [
        ("appendonly", "yes", False),
        ("maxmemory-policy", "noeviction", False),
    ]
    check_durability(ledger.store, refuse=True)


def test_a_deployment_is_known_once_its_controller_announced_it(ledger: Ledger, settings: Settings) -> None:
    with pytest.raises(NoDeployment, match=rf"(?s){settings.redis_prefix}.*TESSERA_REDIS_PREFIX"):
        ledger.deployment()
    announced = deployment()
    ledger.announce(announced)
    assert ledger.deployment() == announced


def test_a_deployment_that_a_newer_controller_announced_is_understood(ledger: Ledger) -> None:
    text = deployment().model_dump_json().replace("{", '{"something_new":1,', 1)
    assert Deployment.model_validate_json(text) == deployment()


def test_only_one_has_a_lock_until_it_is_given_back(ledger: Ledger) -> None:
    with ledger.locks.only_one("x") as first:
        with ledger.locks.only_one("x") as second, ledger.locks.only_one("y") as other:
            assert (first, second, other) == (True, False, True)
        with ledger.locks.only_one("x") as third:
            assert not third  # whoever did not have it did not give it back
    with ledger.locks.only_one("x") as again:
        assert again


def test_a_lock_is_kept_as_long_as_its_holder_works_and_ends_soon_after_a_killed_one(
    ledger: Ledger, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "TTL_S", 2.0)
    began = ledger.now()
    with ledger.locks.only_one("x"):
        while (ledger.now() - began).total_seconds() < 2.5:
            time.sleep(0.05)
            with ledger.locks.only_one("x") as other:
                assert not other
    key = ledger.store.keys.lock("x")
    ledger.store.redis.set(key, "a holder that was killed", px=300)
    bench.soon(lambda: not ledger.store.redis.exists(key), "the lock's end")


@pytest.mark.parametrize("px", [None, 3_600_000])
def test_what_lies_in_a_locks_place_and_does_not_end_soon_is_no_lock(ledger: Ledger, px: int | None) -> None:
    """The second is a lock of a killed holder after the clock of Redis was set back by an hour."""
    ledger.store.redis.set(ledger.store.keys.lock("x"), "zz", px=px)
    with ledger.locks.only_one("x") as mine:
        assert mine


def test_a_lock_that_was_lost_goes_to_another_process_and_stays_there(ledger: Ledger, settings: Settings) -> None:
    with ledger.locks.only_one("x") as first:
        assert first
        ledger.store.redis.delete(ledger.store.keys.lock("x"))
        with ledger.locks.only_one("x") as twice:
            assert not twice  # a thread beside it would do the same work at the same time
        successor = Ledger(settings).locks.only_one("x")
        assert successor.__enter__()
    with ledger.locks.only_one("x") as third:
        assert not third
    successor.__exit__(None, None, None)


def test_something_is_due_once_in_its_interval(ledger: Ledger, bench: Bench) -> None:
    assert [ledger.locks.due("x", 600.0) for _ in range(3)] == [True, False, False]
    assert ledger.locks.due("y", 0.2)
    bench.soon(lambda: ledger.locks.due("y", 0.2), "the next turn")
    assert not ledger.locks.due("x", 600.0)


def test_what_rests_is_not_due_before_its_rest_is_over(ledger: Ledger, bench: Bench) -> None:
    ledger.locks.rest("x", 600.0)
    assert not ledger.locks.due("x", 0.0)
    ledger.locks.rest("x", 0.05)
    bench.soon(lambda: ledger.locks.due("x", 0.0), "its rest is over")


def test_free_slots_are_those_of_workers_that_were_heard_of(
    ledger: Ledger, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.workers.report("w1", 3)
    ledger.workers.report("w2", 1)
    ledger.workers.report("w1", 2)
    assert ledger.workers.free_slots() == {"w1": 2, "w2": 1}
    ledger.workers.leave("w2")
    assert ledger.workers.free_slots() == {"w1": 2}
    monkeypatch.setattr(workers_module, "SILENT_AFTER_S", 0.1)
    bench.soon(lambda: ledger.workers.free_slots() == {}, "the silent worker forgotten")


def test_a_batch_record_of_the_ledger_reads_back_as_it_was_written(ledger: Ledger) -> None:
    record = batch_record()
    ledger.batches.create(record)
    assert BatchRecord.model_validate_json(record.model_dump_json()) == ledger.batches.get("b") == record
