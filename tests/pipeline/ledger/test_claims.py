"""Which job a worker gets, and when."""

from __future__ import annotations

import threading
from collections import Counter

from pipeline.deployment.settings import Settings, load_settings
from pipeline.ledger import Ledger
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.batch import advance
from pipeline.states import BatchState, JobState
from tests.factories import at, batch_record
from tests.pipeline.ledger.bench import Bench


def _order(bench: Bench, count: int) -> list[str]:
    return [bench.claimed().job.ref for _ in range(count)]


def test_nothing_to_claim_is_no_job(ledger: Ledger) -> None:
    assert ledger.leases.claim("w1", 60) is None


def test_a_lower_priority_number_goes_first_however_young(bench: Bench) -> None:
    bench.job("old", priority=5, created_at=at(0))
    bench.job("young", priority=0, created_at=at(100))
    bench.job("later", priority=9, created_at=at(-100))
    assert _order(bench, 3) == ["young/00000", "old/00000", "later/00000"]


def test_among_equals_of_one_tenant_the_older_goes_first_then_the_lower_index(bench: Bench) -> None:
    bench.job("young", 0, created_at=at(1))
    for index in (10, 2, 0, 1):
        bench.job("old", index, created_at=at(0))
    assert _order(bench, 5) == ["old/00000", "old/00001", "old/00002", "old/00010", "young/00000"]


def test_the_tenant_that_holds_fewest_leases_goes_first_so_a_large_batch_does_not_starve_a_small_one(
    bench: Bench,
) -> None:
    for index in range(4):
        bench.job("large", index, tenant="a", created_at=at(0))
    for index in range(2):
        bench.job("small", index, tenant="b", created_at=at(100))
    assert _order(bench, 6) == [
        "large/00000",
        "small/00000",
        "large/00001",
        "small/00001",
        "large/00002",
        "large/00003",
    ]


def test_priority_outranks_fair_share(bench: Bench) -> None:
    for index in range(3):
        bench.job("urgent", index, tenant="a", priority=0)
    bench.job("other", 0, tenant="b", priority=5)
    assert _order(bench, 4)[-1] == "other/00000"


def test_a_lease_that_ends_no_longer_counts_against_its_tenant(ledger: Ledger, bench: Bench) -> None:
    bench.job("a", 0, tenant="a", created_at=at(0))
    bench.job("a", 1, tenant="a", created_at=at(0))
    bench.job("b", 0, tenant="b", created_at=at(1))
    first = bench.claimed()
    done = advance(bench.launched(first), JobState.SUCCEEDED, at=at(2))
    ledger.jobs.write(done, QueuePlace.DONE, fence=first.fence)
    assert _order(bench, 2) == ["a/00001", "b/00000"]


def test_the_claim_brings_the_record_and_a_fence_that_grows(ledger: Ledger, bench: Bench) -> None:
    job = bench.job()
    first = bench.claimed()
    assert first.job == job
    assert ledger.jobs.held(job.ref)
    ledger.leases.release(job.ref, first.fence)
    second = bench.claimed("w2")
    assert int(second.fence) > int(first.fence)


def test_a_job_is_created_once_also_while_it_is_claimed(ledger: Ledger, bench: Bench) -> None:
    job = bench.job()
    bench.claimed()
    assert not ledger.jobs.create(job)
    assert ledger.leases.claim("w2", 60) is None
    assert ledger.leases.backlog() == 0


def test_threads_that_claim_at_once_never_get_the_same_job(ledger: Ledger, bench: Bench) -> None:
    ledger.batches.create(batch_record(images=200))
    for index in range(200):
        bench.job("b", index, tenant=f"t{index % 3}")
    got: dict[str, list[str]] = {"w1": [], "w2": [], "w3": []}
    together = threading.Barrier(len(got))

    def claim_all(worker: str) -> None:
        together.wait()
        while (lease := ledger.leases.claim(worker, 60)) is not None:
            got[worker].append(lease.job.ref)

    threads = [threading.Thread(target=claim_all, args=(worker,)) for worker in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ref for refs in got.values() for ref in refs) == [f"b/{index:05d}" for index in range(200)]
    assert sum(1 for refs in got.values() if refs) > 1


def test_the_backlog_counts_the_jobs_of_all_tenants_that_may_be_claimed(ledger: Ledger, bench: Bench) -> None:
    for index, tenant in enumerate("aab"):
        bench.job("b", index, tenant=tenant)
    assert ledger.leases.backlog() == 3
    bench.claimed()
    assert ledger.leases.backlog() == 2


def test_fair_share_is_counted_again_from_nothing_when_all_jobs_are_over(ledger: Ledger, bench: Bench) -> None:
    """The count of leases a tenant holds may neither leak nor go below zero."""
    for index in range(3):
        bench.job("b", index, tenant="a")
    for _ in range(3):
        lease = bench.claimed()
        ledger.jobs.write(advance(bench.launched(lease), JobState.FAILED, at=at(2)), QueuePlace.DONE, fence=lease.fence)
    held = Counter(ledger.store.redis.hgetall(ledger.store.keys.tenants))
    assert set(held.values()) <= {"0"}
    assert ledger.leases.claim("w1", 60) is None
    assert ledger.store.redis.hgetall(ledger.store.keys.tenants) == {}


def _limited(settings: Settings, **running_jobs: int | None) -> Ledger:
    tenants = {name.replace("others", "*"): {"running_jobs": most} for name, most in running_jobs.items()}
    return Ledger(load_settings(settings.environment(), tenants=tenants))


def test_a_tenant_that_holds_as_many_jobs_as_it_may_gets_no_more_until_one_is_over(
    settings: Settings, ledger: Ledger, bench: Bench
) -> None:
    limited = _limited(settings, a=2)
    for index in range(4):
        bench.job("urgent", index, tenant="a", priority=0)
    bench.job("other", 0, tenant="b", priority=9)
    assert limited.leases.backlog() == 3
    leases = [limited.leases.claim("w1", 60) for _ in range(4)]
    assert [lease and lease.job.ref for lease in leases] == ["urgent/00000", "urgent/00001", "other/00000", None]
    assert limited.leases.backlog() == 0
    first = leases[0]
    assert first is not None
    done = advance(bench.launched(first), JobState.SUCCEEDED, at=at(2))
    ledger.jobs.write(done, QueuePlace.DONE, fence=first.fence)
    assert limited.leases.backlog() == 1
    again = limited.leases.claim("w1", 60)
    assert again is not None
    assert again.job.ref == "urgent/00002"


def test_a_limit_for_all_others_counts_each_of_them_alone_and_not_those_that_are_named(
    settings: Settings, bench: Bench
) -> None:
    limited = _limited(settings, others=1, a=3, c=None)
    for tenant in "abcd":
        for index in range(5):
            bench.job(tenant, index, tenant=tenant)
    got: Counter[str] = Counter()
    while (lease := limited.leases.claim("w1", 60)) is not None:
        got[lease.job.tenant] += 1
    assert got == {"a": 3, "b": 1, "c": 5, "d": 1}


def test_threads_that_claim_at_once_never_take_more_than_the_limit(settings: Settings, bench: Bench) -> None:
    limited = _limited(settings, a=3)
    for index in range(20):
        bench.job("b", index, tenant="a")
    got: list[str] = []

    def claim_all() -> None:
        while (lease := limited.leases.claim("w", 60)) is not None:
            got.append(lease.job.ref)

    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["b/00000", "b/00001", "b/00002"]


def test_a_lease_that_ran_out_makes_room(settings: Settings, bench: Bench) -> None:
    limited = _limited(settings, a=1)
    for index in range(2):
        bench.job("b", index, tenant="a")
    assert limited.leases.claim("w1", 0.2) is not None
    bench.soon(lambda: limited.leases.claim("w2", 60), "a claim in the place of the abandoned one")
    assert limited.leases.claim("w2", 60) is None


def test_a_job_that_was_handed_over_no_longer_counts_against_its_tenant(ledger: Ledger, bench: Bench) -> None:
    for index in range(2):
        bench.job("a", index, tenant="a", created_at=at(0))
    bench.job("b", 0, tenant="b", created_at=at(1))
    lease = bench.claimed()
    assert ledger.leases.release(lease.job.ref, lease.fence)
    assert _order(bench, 3) == ["a/00000", "b/00000", "a/00001"]


def test_a_tenant_with_nothing_in_the_backlog_still_holds_what_it_holds(settings: Settings, bench: Bench) -> None:
    limited = _limited(settings, a=1)
    bench.job("b", 0, tenant="a")
    assert limited.leases.claim("w1", 60) is not None
    assert limited.leases.claim("w1", 60) is None
    bench.job("b", 1, tenant="a")
    assert limited.leases.claim("w1", 60) is None


def test_however_many_jobs_of_a_paused_batch_stand_in_front_the_job_behind_them_is_claimed(
    ledger: Ledger, bench: Bench
) -> None:
    """One claim sets aside a thousand of them at most."""
    batch = batch_record("paused", images=1000)
    ledger.batches.create(batch)
    ledger.batches.write(advance(batch, BatchState.PAUSED, at=at(1)))
    for index in range(1000):
        bench.job("paused", index, created_at=at(0))
    bench.job("behind", created_at=at(1))
    assert ledger.leases.claim("w1", 60) is None
    assert bench.claimed().job.ref == "behind/00000"
