"""What a large batch costs Redis: a look at it what a look at a small one does, a job of it so many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger, generations
from pipeline.operations.status import batch_status, jobs_status
from tests.factories import batch_record, job_record
from tests.own_valkey import with_own_valkey
from tests.pipeline.ledger.bench import Bench


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """On a Redis of the test's own, which is not asked meanwhile which one it is: its counters are read."""
    monkeypatch.setattr(generations, "SERVER_S", 600.0)
    with with_own_valkey(settings, tmp_path / "own") as own:
        yield own


def _batch(ledger: Ledger, bench: Bench, batch_id: str, jobs: int) -> None:
    """A batch of so many jobs of which two have begun."""
    ledger.batches.create(batch_record(batch_id, images=jobs))
    assert ledger.jobs.create_all(job_record(batch_id, index) for index in range(jobs)) == jobs
    for _ in range(2):
        bench.launched(bench.claimed())


def _traffic(ledger: Ledger) -> tuple[int, int]:
    """Commands that Redis has carried out, and bytes that it has answered."""
    stats = ledger.store.redis.info("stats")
    return stats["total_commands_processed"], stats["total_net_output_bytes"]


def _cost_of_a_look(ledger: Ledger, batch_id: str) -> tuple[int, int]:
    batch_status(ledger, batch_id)  # connections are made, scripts loaded
    commands, sent = _traffic(ledger)
    batch_status(ledger, batch_id)
    assert [job.attempt for job in jobs_status(ledger, batch_id)] == [1, 1]
    commands_after, sent_after = _traffic(ledger)
    return commands_after - commands, sent_after - sent


def test_a_look_at_a_batch_costs_the_same_whatever_its_size(ledger: Ledger, bench: Bench) -> None:
    _batch(ledger, bench, "small", 3)
    _batch(ledger, bench, "large", 3000)
    commands, sent = _cost_of_a_look(ledger, "small")
    commands_of_large, sent_of_large = _cost_of_a_look(ledger, "large")
    assert commands_of_large == commands < 12
    assert sent_of_large < sent + 200  # its numbers have more digits


def test_creating_many_jobs_again_creates_those_that_are_missing_and_disturbs_none(
    ledger: Ledger, bench: Bench
) -> None:
    ledger.batches.create(batch_record(images=500))
    records = [job_record(index=index) for index in range(500)]
    assert ledger.jobs.create_all(records[:250]) == 250
    begun = bench.launched(bench.claimed())
    assert ledger.jobs.create_all(records) == 250
    assert ledger.jobs.get(begun.ref) == begun
    assert sum(ledger.batches.counts("b").jobs.values()) == 500
    assert ledger.leases.backlog() == 499
    assert ledger.jobs.create_all([]) == 0


def test_many_jobs_are_created_with_few_round_trips(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.batches.create(batch_record(images=1000))
    trips = []
    pipeline = ledger.store.redis.pipeline

    def counted(**options: Any) -> Any:
        trips.append(options)
        return pipeline(**options)

    monkeypatch.setattr(ledger.store.redis, "pipeline", counted)
    ledger.jobs.create_all(job_record(index=index) for index in range(1000))
    assert len(trips) <= 10


def test_a_waiting_job_needs_a_fixed_amount_of_redis(ledger: Ledger) -> None:
    """A million rows are at most 15,625 jobs of 64: with 2 KB each they are 31 MB."""
    used = _used(ledger)
    ledger.batches.create(batch_record(images=4000))
    ledger.jobs.create_all(job_record(index=index) for index in range(4000))
    assert (_used(ledger) - used) / 4000 < 2_500


def _used(ledger: Ledger) -> int:
    return int(ledger.store.redis.info("memory")["used_memory_dataset"])
