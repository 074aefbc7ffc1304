"""Redis killed, away, paused, silent, full and emptied, all in mid-render. The pod goes on; reports catch up."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline import Batch
from pipeline.errors import BatchLost, LedgerUnavailable
from pipeline.states import BatchState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries

slow = pytest.mark.slow_fault

OUTAGE_S = 60.0


def _answers(batch: Batch) -> bool:
    try:
        batch.status()
    except (LedgerUnavailable, BatchLost):
        return False
    return True


def _catches_up(deployment: Deployment, batch: Batch) -> Callable[[], bool]:
    """Whether the ledger knows of at least as many images as the wire to S3 carried until now."""
    committed = deployment.images_put(batch)
    return lambda: _answers(batch) and batch.status().succeeded >= committed


@contextmanager
def _paused(deployment: Deployment) -> Iterator[None]:
    deployment.services.redis.send(signal.SIGSTOP)
    try:
        yield
    finally:
        deployment.services.redis.send(signal.SIGCONT)


@contextmanager
def _killed(deployment: Deployment) -> Iterator[None]:
    redis = deployment.services.redis
    redis.send(signal.SIGKILL)
    until("Redis is gone", lambda: redis.exit_code() is not None)
    try:
        yield
    finally:
        redis.start()


def test_redis_killed_and_restarted_comes_back_with_every_record(
    deployment: Deployment, recoveries: Recoveries
) -> None:
    batch = deployment.rendering()
    with _killed(deployment):
        pass
    began = time.monotonic()
    recoveries.after(
        "Redis SIGKILLed and restarted in mid-render",
        "the ledger is up to what was committed",
        _catches_up(deployment, batch),
        began,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
@pytest.mark.parametrize(("outage", "name"), [(_killed, "away"), (_paused, "paused (SIGSTOP)")])
def test_rendering_goes_on_while_redis_is_away_for_a_minute(
    started: Started, recoveries: Recoveries, outage: Callable[[Deployment], Iterator[None]], name: str
) -> None:
    deployment = started(images_per_job=300)
    batch = deployment.rendering(300)  # more than there is time for
    with outage(deployment):  # type: ignore[attr-defined]  # a context manager
        away, before = time.monotonic(), deployment.images_put(batch)
        until("images are committed all the same", lambda: deployment.images_put(batch) >= before + 4)
        time.sleep(max(0.0, away + OUTAGE_S - time.monotonic()))
    began = time.monotonic()
    recoveries.after(
        f"Redis {name} for {OUTAGE_S:.0f} s in mid-render",
        "the ledger is up to what was committed meanwhile",
        _catches_up(deployment, batch),
        began,
    )
    assert batch.cancel() is BatchState.CANCELLING
    ends_well(deployment, batch, BatchState.CANCELLED)
    assert set(deployment.attempts(batch)) == {1}


@slow
def test_a_batch_submitted_while_redis_is_away_is_refused_or_found_later(deployment: Deployment) -> None:
    with _killed(deployment), pytest.raises(LedgerUnavailable):
        deployment.submit(batch_id="away")
    until("Redis answers", lambda: _loaded(deployment))
    ends_well(deployment, deployment.submit(batch_id="away"))


def _loaded(deployment: Deployment) -> bool:
    try:
        return bool(deployment.ledger.now())
    except LedgerUnavailable:
        return False


@slow
def test_every_connection_killed_again_and_again(deployment: Deployment) -> None:
    batch = deployment.rendering(6)
    client = deployment.ledger.store.redis
    for _ in range(10):
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
        time.sleep(0.5)
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}
    ends_well(deployment, deployment.submit(2))  # and the broker's consumers are there again


@slow
def test_connections_that_are_half_open_are_given_up(deployment: Deployment, recoveries: Recoveries) -> None:
    batch = deployment.rendering(30)
    began = time.monotonic()
    deployment.redis_wire.go_silent()
    time.sleep(1)
    committed = deployment.images_put(batch)
    recoveries.after(
        "every connection to Redis half open in mid-render",
        "the ledger is up to what was committed",
        lambda: batch.status().succeeded > committed,
        began,
    )
    began = time.monotonic()
    later = deployment.submit(2)
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}
    ends_well(deployment, later)


@slow
def test_a_full_redis_loses_nothing_and_goes_on_when_there_is_room(
    deployment: Deployment, recoveries: Recoveries
) -> None:
    batch = deployment.rendering(12)
    client = deployment.ledger.store.redis
    client.config_set("maxmemory", "1mb")
    try:
        committed = deployment.images_put(batch)
        until("images are committed all the same", lambda: deployment.images_put(batch) > committed + 1)
        found = deployment.submit(2, batch_id="found-later")
        time.sleep(5)
    finally:
        client.config_set("maxmemory", "0")
    began = time.monotonic()
    recoveries.after(
        "Redis at maxmemory in mid-render",
        "the ledger is up to what was committed",
        _catches_up(deployment, batch),
        began,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}
    until("what was accepted meanwhile is found in the bucket", lambda: _answers(found))
    ends_well(deployment, found)


@slow
def test_an_emptied_redis_is_filled_from_the_bucket(deployment: Deployment, recoveries: Recoveries) -> None:
    """What is committed is not rendered again, and what runs is adopted."""
    batch = deployment.rendering(6)
    began = time.monotonic()
    deployment.ledger.store.redis.flushall()
    until("the batch is found in the bucket", lambda: _answers(batch))
    recoveries.after(
        "Redis emptied (FLUSHALL) in mid-render",
        "the batch is in the ledger again, and in progress",
        lambda: batch.status().state is BatchState.IN_PROGRESS,
        began,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
def test_what_had_ended_when_redis_was_emptied_comes_back_by_resume(deployment: Deployment) -> None:
    """As it was, and nothing of it is rendered or written again; nothing happens to what runs meanwhile."""
    ended, cancelled = deployment.submit(3), deployment.rendering(30)
    assert cancelled.cancel() is BatchState.CANCELLING
    ends_well(deployment, ended)
    ends_well(deployment, cancelled, BatchState.CANCELLED)
    before = {batch.id: (batch.status().succeeded, batch.status().failed) for batch in (ended, cancelled)}
    running = deployment.rendering(6)
    deployment.ledger.store.redis.flushall()
    assert {ended.id, cancelled.id} <= set(deployment.client.resume())
    ends_well(deployment, ended)
    ends_well(deployment, cancelled, BatchState.CANCELLED)
    assert {batch.id: (batch.status().succeeded, batch.status().failed) for batch in (ended, cancelled)} == before
    ends_well(deployment, running)
    assert set(deployment.attempts(running)) == {1}
    assert deployment.client.resume() == []


@slow
def test_a_kill_of_redis_at_every_moment_of_a_batch(deployment: Deployment) -> None:
    """Twelve kills, spread over expansion, launch, render, settlement and finalization."""
    batch = deployment.submit(8)
    for _ in range(12):
        with _killed(deployment):
            time.sleep(0.2)
        until("Redis answers", lambda: _loaded(deployment))
        time.sleep(1.3)
    ends_well(deployment, batch)
