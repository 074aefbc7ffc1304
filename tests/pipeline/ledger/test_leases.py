"""A lease ends by Redis' clock, by handing over, or with the job; whoever lost it can no longer write."""

from __future__ import annotations

import time

import pytest

from pipeline.errors import LeaseLost, StaleWrite, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.batch import advance, changed
from pipeline.states import BatchState, ImageState, JobState
from tests.factories import INCARNATION, at, batch_record
from tests.pipeline.ledger.bench import Bench


def test_an_expired_lease_goes_to_the_next_claim_and_its_holder_can_write_nothing(ledger: Ledger, bench: Bench) -> None:
    ledger.batches.create(batch_record())
    bench.job()
    late = bench.claimed("w1", lease_s=0.2)
    job = bench.launched(late)
    bench.soon(lambda: ledger.leases.promote()[0] == 1, "the lease's end")
    with pytest.raises(LeaseLost):
        ledger.leases.renew(job.ref, late.fence, 60)
    next_one = bench.claimed("w2")
    assert (next_one.job.ref, next_one.job.attempt) == (job.ref, job.attempt)
    for fence in (late.fence, ""):
        with pytest.raises(LeaseLost, match="b/00000 is held by another worker"):
            ledger.jobs.write(changed(job, at=at(3), confirmed=True), QueuePlace.HELD, fence=fence)
        with pytest.raises(LeaseLost):
            ledger.images.move_by_worker("b", job.ref, [0], ImageState.FAILED, incarnation=INCARNATION, fence=fence)
    assert not ledger.leases.release(job.ref, late.fence)
    found = ledger.jobs.get(job.ref)
    assert found == job
    assert ledger.images.states("b", [0]) == [ImageState.QUEUED]


def test_a_claim_itself_notices_that_a_lease_ran_out(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    bench.claimed("w1", lease_s=0.2)
    bench.soon(lambda: ledger.leases.claim("w2", 60), "a claim of the abandoned job")


def test_a_lease_that_is_renewed_does_not_run_out(ledger: Ledger, bench: Bench) -> None:
    ledger.batches.create(batch_record())
    bench.job()
    lease = bench.claimed(lease_s=2.0)
    began = ledger.now()
    while (ledger.now() - began).total_seconds() < 2.5:
        time.sleep(0.05)
        ledger.leases.renew(lease.job.ref, lease.fence, 2.0)
        assert ledger.leases.claim("w2", 60) is None
    assert ledger.jobs.held(lease.job.ref)


def test_renewing_says_how_the_job_its_batch_and_its_pod_stand(ledger: Ledger, bench: Bench) -> None:
    batch = batch_record()
    ledger.batches.create(batch)
    bench.job()
    lease = bench.claimed()
    before = ledger.now()
    held = ledger.leases.renew(lease.job.ref, lease.fence, 60)
    assert (held.job, held.batch, held.registered) == (lease.job, BatchState.VALIDATING, 0)
    assert before <= held.at <= ledger.now()
    job = bench.launched(lease)
    assert job.attempt is not None
    ledger.jobs.register_pod(job.ref, attempt=1, token=job.attempt.token, uid="pod")
    ledger.batches.write(advance(batch, BatchState.CANCELLING, at=at(1)))
    held = ledger.leases.renew(lease.job.ref, lease.fence, 60)
    assert (held.job, held.batch, held.registered) == (job, BatchState.CANCELLING, 1)


def test_a_job_whose_batch_was_removed_is_not_held(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    lease = bench.claimed()
    ledger.store.redis.delete(ledger.store.keys.batch("b"))
    with pytest.raises(UnknownBatch):
        ledger.leases.renew(lease.job.ref, lease.fence, 60)


def test_a_lease_ends_by_redis_clock_and_not_before(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    began = ledger.now()
    bench.claimed(lease_s=0.4)
    bench.soon(lambda: ledger.leases.promote() == (1, 0), "the lease's end")
    assert (ledger.now() - began).total_seconds() >= 0.4
    assert ledger.leases.backlog() == 1


def test_releasing_hands_the_job_over_at_once(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    lease = bench.claimed("w1", lease_s=600)
    job = bench.launched(lease)
    assert ledger.leases.release(job.ref, lease.fence)
    assert bench.claimed("w2").job == job
    with pytest.raises(LeaseLost):
        ledger.leases.renew(job.ref, lease.fence, 60)


@pytest.mark.parametrize("fence", ["0", "2", "foreign", ""])
def test_a_foreign_fence_neither_renews_nor_releases_nor_writes(ledger: Ledger, bench: Bench, fence: str) -> None:
    bench.job()
    lease = bench.claimed()
    assert lease.fence != fence
    with pytest.raises(LeaseLost):
        ledger.leases.renew(lease.job.ref, fence, 60)
    assert not ledger.leases.release(lease.job.ref, fence)
    with pytest.raises(LeaseLost):
        ledger.jobs.write(advance(lease.job, JobState.CANCELLED, at=at(1)), QueuePlace.DONE, fence=fence)
    assert ledger.jobs.held(lease.job.ref)


def test_no_fence_is_no_lease_also_of_a_job_that_nobody_holds(ledger: Ledger, bench: Bench) -> None:
    """Otherwise a job that is over would come back into the backlog."""
    job = bench.job()
    ledger.jobs.write(advance(job, JobState.CANCELLED, at=at(1)), QueuePlace.DONE, fence="")
    assert not ledger.leases.release(job.ref, "")
    with pytest.raises(LeaseLost):
        ledger.leases.renew(job.ref, "", 60)
    assert ledger.leases.claim("w1", 60) is None


def test_a_write_of_the_holder_stands_only_if_nothing_changed_since_it_read(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    lease = bench.claimed()
    bench.launched(lease)
    with pytest.raises(StaleWrite, match="b/00000 has moved on from revision 1"):
        ledger.jobs.write(advance(lease.job, JobState.LAUNCHING, at=at(2)), QueuePlace.HELD, fence=lease.fence)


def test_a_job_that_nobody_holds_may_be_written_without_a_lease(ledger: Ledger, bench: Bench) -> None:
    ledger.batches.create(batch_record())
    job = bench.job()
    assert ledger.jobs.write(advance(job, JobState.CANCELLED, at=at(1)), QueuePlace.DONE, fence="") == 0
    assert ledger.leases.claim("w1", 60) is None


def test_a_delayed_job_comes_back_when_its_delay_is_over_and_not_before(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    lease = bench.claimed()
    began = ledger.now()
    retrying = advance(bench.launched(lease), JobState.RETRYING, at=at(2))
    ledger.jobs.write(retrying, QueuePlace.DELAYED, fence=lease.fence, delay_s=0.4)
    assert not ledger.jobs.held(lease.job.ref)
    assert ledger.leases.backlog() == 0
    with pytest.raises(LeaseLost):
        ledger.leases.renew(lease.job.ref, lease.fence, 60)
    bench.soon(lambda: ledger.leases.promote() == (0, 1), "the delay's end")
    assert (ledger.now() - began).total_seconds() >= 0.4
    assert bench.claimed().job == retrying


def test_a_delayed_job_that_is_cancelled_does_not_come_back(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    lease = bench.claimed()
    retrying = advance(bench.launched(lease), JobState.RETRYING, at=at(2))
    ledger.jobs.write(retrying, QueuePlace.DELAYED, fence=lease.fence, delay_s=0.1)
    ledger.jobs.write(advance(retrying, JobState.CANCELLED, at=at(3)), QueuePlace.DONE, fence="")
    began = ledger.now()
    bench.soon(lambda: (ledger.now() - began).total_seconds() > 0.2, "the delay's end")
    assert ledger.leases.promote() == (0, 0)


def test_the_last_job_of_a_batch_learns_that_it_is_the_last(ledger: Ledger, bench: Bench) -> None:
    for index in range(3):
        bench.job("b", index)
    left = []
    for _ in range(3):
        lease = bench.claimed()
        job = advance(bench.launched(lease), JobState.SUCCEEDED, at=at(2))
        left.append(ledger.jobs.write(job, QueuePlace.DONE, fence=lease.fence))
    assert left == [2, 1, 0]
    assert ledger.jobs.unfinished("b") == []


def test_a_job_of_the_right_revision_and_of_another_incarnation_is_not_written(ledger: Ledger, bench: Bench) -> None:
    """Whoever read it before the ledger was lost and rebuilt has read another job."""
    job = bench.job()
    lost = job.model_copy(update={"incarnation": "00000000"})
    with pytest.raises(StaleWrite):
        ledger.jobs.write(advance(lost, JobState.CANCELLED, at=at(1)), QueuePlace.DONE, fence="")
    assert ledger.jobs.get(job.ref) == job
