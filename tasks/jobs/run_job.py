"""Run one job under a lease: take one action after the other until it is over or the lease ends.

Outages and errors of our own program end here: a job that meets them is tried again later, and ends when it can never
go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from pipeline.errors import (
    LeaseLost,
    LedgerUnavailable,
    RecordUnreadable,
    ServiceError,
    StaleWrite,
    TesseraError,
    UnknownBatch,
)
from pipeline.ledger.leases import UNREADABLE_DELAY_S, UNREADABLE_TIMES, Held, Lease
from pipeline.process.backoff import backoff_s
from pipeline.process.redact import redacted
from pipeline.records.attempt import AttemptPhase
from pipeline.records.batch import JobRecord
from pipeline.records.results import FailureCode
from pipeline.states import JobState, is_final
from tasks.jobs import retry_policy
from tasks.jobs.advance_job import advance_job
from tasks.jobs.finish_attempt import abandon_job, end_unasked
from tasks.jobs.mend_job import delete_attempt, mend_claimed_job
from tasks.jobs.outage import READABLE_WITHIN_S, REASON_LIMIT, PodGoesOn, give_back, has_waited, record_wait
from tasks.jobs.shards import ShardLost
from tasks.process.context import Context

log = structlog.get_logger(__name__)

OUTAGE_PAUSE_S = 0.5  # the first
STALE_PAUSE_S = 0.1

LOOK_WITHIN_S = 10.0  # a lease is renewed, and a cancelled batch noticed, however seldom attempts are observed


def run_job(context: Context, lease: Lease) -> None:
    """Run the job until it is over, waits for its next attempt, or is no longer ours.

    When the worker stops, the job is handed over at once and its pod left alone. A job that waits for S3, its shard or
    a launch is given back meanwhile, which costs it no attempt.
    """
    ref = lease.job.ref
    with (
        structlog.contextvars.bound_contextvars(batch=lease.job.batch_id, job=lease.job.index),
        context.images.held(ref),
    ):
        log.info("job claimed", state=lease.job.state.value)
        try:
            _repeat(context, ref, lease.fence, advance_job)
        except LeaseLost as error:
            log.warning("job belongs to another worker", reason=str(error))
        except UnknownBatch as error:
            _await_batch(context, ref, lease.fence, str(error))
        except ShardLost as error:
            log.error("job cannot go on, its batch fails", reason=str(error))
            context.ledger.leases.release(ref, lease.fence)  # whoever claims it next ends it
        except Exception as error:  # whatever it is, it must not keep this worker from its other jobs
            log.exception("internal error while running a job")
            _retry_or_abandon(context, ref, lease.fence, f"{type(error).__name__}: {error}")


def _repeat(context: Context, ref: str, fence: str, action: Callable[[Context, Held, str], bool]) -> None:
    """Repeat the action until there is nothing more to do under this lease, or the worker stops."""
    outages = 0  # in a row
    stale = None  # the revision whose successor was refused last
    while True:
        held, began = None, time.monotonic()
        try:
            if context.stopping.is_set() or context.handing_over.is_set():
                context.ledger.leases.release(ref, fence)
                log.info("job handed over")
                return
            held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
            if is_final(held.job.state) or not action(context, held, fence):
                return
        except StaleWrite as error:
            # An answer was lost and our own write stands, or somebody moved it: look again.
            if held is not None and stale == held.job.revision:
                _mend(context, ref, fence, f"what stands beside the record of job {ref} is not of it: {error}")
                return
            stale = held.job.revision if held is not None else None
            context.stopping.wait(STALE_PAUSE_S)
            continue
        except (LedgerUnavailable, PodGoesOn) as error:
            outages += 1
            pause_s = backoff_s(outages, first_s=OUTAGE_PAUSE_S)
            log.warning("waiting for an outage to end", reason=str(error), pause_s=pause_s)
            if held is not None and isinstance(error, PodGoesOn):
                _record_wait(context, held.job, fence, str(error))
            if context.stopping.wait(pause_s) and isinstance(error, LedgerUnavailable):
                return  # it may not be reachable to hand over; the lease ends by itself
            continue
        except ServiceError as error:
            _give_back(context, ref, fence, error, took_s=time.monotonic() - began)
            return
        outages = 0
        context.stopping.wait(min(context.settings.observe_s, LOOK_WITHIN_S))


def _give_back(context: Context, ref: str, fence: str, error: ServiceError, *, took_s: float) -> None:
    """Leave the job to a later claim; if it has long waited for somebody who can read what it needs, end it."""
    try:
        held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
    except RecordUnreadable as unreadable:
        log.error("job put back, its record cannot be read", reason=str(unreadable))
        _release(context, ref, fence, UNREADABLE_DELAY_S)
        return
    if isinstance(error, RecordUnreadable) and has_waited(held.job, READABLE_WITHIN_S, context):
        log.error("job given up, no worker can read what it needs", reason=str(error))
        _end(context, held, fence, code=FailureCode.UNREADABLE, reason=str(error))
        return
    give_back(context, held.job, fence, str(error), took_s=took_s)


def _await_batch(context: Context, ref: str, fence: str, reason: str) -> None:
    """Put back a job whose batch is lost, or another than the job says; if that lasts, the job is what is damaged."""
    try:
        if context.ledger.leases.count_internal_error(ref, fence) >= UNREADABLE_TIMES:
            _mend(context, ref, fence, f"job {ref} is not of the batch that is on record")
            return
    except (LeaseLost, ServiceError) as error:
        reason = f"{reason}; {error}"
    log.warning("job of a batch that was lost is put back until that is found", reason=reason)
    _release(context, ref, fence, UNREADABLE_DELAY_S)


def _mend(context: Context, ref: str, fence: str, reason: str) -> None:
    """Have the job begin anew under another record; it is put back if that cannot be written now."""
    mend_claimed_job(context, ref, fence, reason)
    _release(context, ref, fence, UNREADABLE_DELAY_S)


def _record_wait(context: Context, job: JobRecord, fence: str, reason: str) -> None:
    """Record what the job waits for under its lease; it does not matter if that fails."""
    try:
        if job.wait is None or job.wait.reason != redacted(reason)[:REASON_LIMIT]:
            record_wait(context, job, fence, reason)
    except TesseraError as error:
        log.debug("outage could not be recorded", reason=str(error))


def _release(context: Context, ref: str, fence: str, delay_s: float) -> None:
    try:
        context.ledger.leases.release(ref, fence, delay_s=delay_s)  # nothing happens if it is over
    except ServiceError as error:
        log.warning("lease could not be released, it will expire", reason=str(error))


def _retry_or_abandon(context: Context, ref: str, fence: str, reason: str) -> None:
    """Try the job again later; after as many times as an attempt may fail, give it up."""
    delay_s = retry_policy.LONGEST_DELAY_S
    try:
        times = context.ledger.leases.count_internal_error(ref, fence)
        held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
        if times < context.settings.max_attempts:
            delay_s = backoff_s(times, first_s=retry_policy.FIRST_DELAY_S, longest_s=retry_policy.LONGEST_DELAY_S)
            record_wait(context, held.job, fence, reason)
        else:
            log.error("job given up", times=times)
            why = f"{reason} ({times} times; the workers' logs say where)"
            _repeat(context, ref, fence, lambda *held: _end(*held, code=FailureCode.INTERNAL, reason=why))
    except TesseraError as error:
        log.warning("job put off", reason=str(error))
    except Exception:  # nor can what else there may be to say of it be written
        log.exception("job could not be put off", next_try_s=delay_s)
    _release(context, ref, fence, delay_s)


def _end(context: Context, held: Held, fence: str, *, code: FailureCode, reason: str) -> bool:
    """End the attempt of a job that is given up, then the job; False when it is over."""
    job = held.job
    try:
        if job.attempt is not None and job.state not in (JobState.QUEUED, JobState.RETRYING):
            seen = context.observer.look(after=time.monotonic()).get(job.attempt.name)
            delete_attempt(context, job.attempt.name)
            if seen is not None and seen.phase is not AttemptPhase.ENDED:
                return True
        abandon_job(context, job, fence, code, reason)
    except TesseraError:
        raise
    except Exception:  # whatever it is, giving up must succeed
        log.exception("job ends without a look at its images")
        end_unasked(context, job, fence, reason)
    return False
