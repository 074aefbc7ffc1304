"""A write is refused by a ledger that no longer has what its writer read: it was rolled back, emptied, rebuilt."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.deployment.settings import Settings
from pipeline.errors import BatchLost, LeaseLost, LedgerBehind, StaleWrite
from pipeline.ledger import Ledger
from pipeline.ledger.assumed import Assumed
from pipeline.ledger.jobs import QueuePlace
from pipeline.ledger.scripts import Argument
from pipeline.records.batch import advance, changed
from pipeline.states import BatchState, ImageState, JobState
from tests.factories import INCARNATION, at, batch_record, job_record
from tests.pipeline.ledger.bench import Bench
from tests.rollback import Snapshot

REF = "b/00000"


def _emptied(ledger: Ledger) -> None:
    keys = list(ledger.store.redis.scan_iter(match=f"{ledger.store.keys.prefix}:*"))
    if keys:
        ledger.store.redis.delete(*keys)


def _other_incarnation(ledger: Ledger) -> None:
    _emptied(ledger)
    ledger.batches.create(batch_record(incarnation="5678abcd"))


def _let_run(ledger: Ledger) -> None:
    ledger.batches.write(advance(ledger.batches.get("b"), BatchState.IN_PROGRESS, at=at(1), jobs=2))


@pytest.mark.parametrize("meanwhile", [_emptied, _other_incarnation, _let_run])
def test_a_job_is_created_only_in_the_batch_that_its_writer_read(
    ledger: Ledger, meanwhile: Callable[[Ledger], None]
) -> None:
    ledger.batches.create(batch_record())
    meanwhile(ledger)
    with pytest.raises(StaleWrite, match=r"job b/00000 was not written.*no batch b of incarnation 1234abcd"):
        ledger.jobs.create(job_record())
    with pytest.raises(StaleWrite):
        ledger.jobs.create_all([job_record(), job_record(index=1)])
    assert ledger.jobs.get(REF) is None
    assert ledger.leases.backlog() == 0
    assert not any(ledger.batches.counts("b").jobs.values())


def test_a_job_that_is_missing_from_a_batch_that_runs_is_created_by_whoever_read_that_it_runs(ledger: Ledger) -> None:
    ledger.batches.create(batch_record())
    _let_run(ledger)
    for wrong in (None, 1, 3):
        with pytest.raises(StaleWrite):
            ledger.jobs.create(job_record(), cut_into=wrong)
    assert ledger.jobs.create(job_record(), cut_into=2)


def test_a_number_of_jobs_in_the_defaults_of_a_batch_is_not_its_own(ledger: Ledger) -> None:
    ledger.batches.create(batch_record(defaults={"metadata": {"jobs": 2, "note": '"jobs":2,'}}))
    assert ledger.jobs.create(job_record())


def test_how_many_jobs_a_batch_has_is_read_from_its_record_where_an_earlier_version_wrote_it(ledger: Ledger) -> None:
    ledger.batches.create(batch_record())
    _let_run(ledger)
    key = ledger.store.keys.batch("b")
    ledger.store.redis.hincrby(key, "revision", 1)  # as a write that does not know the field beside it
    ledger.store.redis.hset(key, "cut_into", "")
    with pytest.raises(StaleWrite):
        ledger.jobs.create(job_record())
    assert ledger.jobs.create(job_record(), cut_into=2)


def test_images_of_a_batch_that_the_ledger_has_forgotten_do_not_move(ledger: Ledger, bench: Bench) -> None:
    ledger.batches.create(batch_record())
    bench.job()
    lease = bench.claimed()
    _emptied(ledger)
    for fence in ("", lease.fence):
        with pytest.raises(BatchLost):
            ledger.images.move_by_worker("b", REF, [0], ImageState.SUCCEEDED, incarnation=INCARNATION, fence=fence)
    with pytest.raises(BatchLost):
        ledger.images.move_by_pod("b", REF, [0], ImageState.SUCCEEDED, pod="u", attempt=1, token="t")
    assert not list(ledger.store.redis.scan_iter(match=f"{ledger.store.keys.prefix}:*"))
    _other_incarnation(ledger)
    with pytest.raises(StaleWrite, match="lost and rebuilt since its incarnation 1234abcd"):
        ledger.images.move_by_worker("b", REF, [0], ImageState.SUCCEEDED, incarnation=INCARNATION, fence="")
    assert ledger.batches.counts("b").images[ImageState.SUCCEEDED] == 0


def test_a_batch_runs_only_with_every_job_that_was_counted(ledger: Ledger, settings: Settings) -> None:
    """The rollback that made `completed, 0 of 30`: jobs were created, forgotten, and the next write still stood."""
    ledger.batches.create(batch_record())
    before = Snapshot.of(settings)
    ledger.jobs.create_all([job_record(index=0, images=2), job_record(index=1, images=2)])
    running = advance(ledger.batches.get("b"), BatchState.IN_PROGRESS, at=at(1), jobs=2)
    before.restore()
    with pytest.raises(LedgerBehind, match=r"0 jobs.* found, 2 jobs wanted; was Redis restored"):
        ledger.batches.write(running, Assumed(jobs=2))
    assert ledger.batches.state("b") is BatchState.VALIDATING
    assert ledger.jobs.create_all([job_record(index=0, images=2), job_record(index=1, images=2)]) == 2
    ledger.batches.write(running, Assumed(jobs=2))
    assert ledger.batches.state("b") is BatchState.IN_PROGRESS


def test_a_batch_ends_only_with_every_job(ledger: Ledger, bench: Bench) -> None:
    ledger.batches.create(batch_record(images=2))
    bench.job(images=2)
    ledger.batches.write(advance(ledger.batches.get("b"), BatchState.IN_PROGRESS, at=at(1), jobs=1), Assumed(jobs=1))
    finalizing = advance(ledger.batches.get("b"), BatchState.FINALIZING, at=at(2))
    ended = Assumed(jobs=1, ended=True)
    with pytest.raises(LedgerBehind, match=r"1 jobs, 1 of them without an end.* found, 1 jobs, none of them without"):
        ledger.batches.write(finalizing, ended)
    ledger.jobs.write(advance(job_record(images=2), JobState.FAILED, at=at(2)), QueuePlace.DONE, fence="")
    with pytest.raises(LedgerBehind, match=r"1 jobs.* found, 2 jobs, none of them without an end wanted"):
        ledger.batches.write(finalizing, Assumed(jobs=2, ended=True))
    ledger.batches.write(finalizing, ended)
    assert ledger.batches.state("b") is BatchState.FINALIZING


def test_jobs_that_were_opened_again_and_forgotten_are_missed(ledger: Ledger, settings: Settings, bench: Bench) -> None:
    ledger.batches.create(batch_record(images=2))
    job = bench.job(images=2)
    failed = advance(job, JobState.FAILED, at=at(2))
    ledger.jobs.write(failed, QueuePlace.DONE, fence="")
    before = Snapshot.of(settings)
    assert ledger.batches.reopened("b") == 0
    again = changed(failed, at=at(3), state=JobState.QUEUED, round=1)
    ledger.jobs.write(again, QueuePlace.BACKLOG, fence="")
    assert ledger.batches.reopened("b") == 1
    before.restore()
    record = ledger.batches.get("b")
    running = advance(record, BatchState.IN_PROGRESS, at=at(4), jobs=1)
    with pytest.raises(LedgerBehind, match="0 opened again found, 1 jobs, 1 opened again wanted"):
        ledger.batches.write(running, Assumed(jobs=1, reopened=1))
    ledger.jobs.write(again, QueuePlace.BACKLOG, fence="")
    ledger.batches.write(running, Assumed(jobs=1, reopened=1))


def test_a_worker_whose_claim_was_rolled_back_holds_nothing_that_another_claims(
    ledger: Ledger, settings: Settings, bench: Bench
) -> None:
    bench.job()
    before = Snapshot.of(settings)
    late = bench.claimed("w1")
    before.restore()
    with pytest.raises(LeaseLost):
        ledger.leases.renew(REF, late.fence, 60)
    held = bench.claimed("w2")
    assert int(held.fence) > int(late.fence)
    with pytest.raises(LeaseLost):
        ledger.leases.renew(REF, late.fence, 60)
    ledger.leases.renew(REF, held.fence, 60)


def test_a_step_that_is_sent_twice_changes_nothing_the_second_time(settings: Settings, bench: Bench) -> None:
    """As the client library repeats it when a connection breaks after Redis has done it."""
    ledger = Ledger(settings)
    run = ledger.store.run

    def twice(name: str, /, *more: Argument, **named: Argument) -> object:
        run(name, *more, **named)
        return run(name, *more, **named)

    ledger.batches.create(batch_record(images=2))
    ledger.store.run = twice  # type: ignore[method-assign]
    assert not ledger.jobs.create(job_record(images=2))  # the second one finds it
    with pytest.raises(StaleWrite):
        ledger.batches.write(advance(ledger.batches.get("b"), BatchState.IN_PROGRESS, at=at(1), jobs=1))
    assert ledger.images.move_by_worker("b", REF, [0], ImageState.RUNNING, incarnation=INCARNATION, fence="") == 0
    ledger.store.run = run  # type: ignore[method-assign]
    assert ledger.batches.state("b") is BatchState.IN_PROGRESS
    assert sum(ledger.batches.counts("b").jobs.values()) == 1
    assert ledger.batches.counts("b").images[ImageState.RUNNING] == 1
