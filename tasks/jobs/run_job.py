"""Run one job under a lease: take one action after the other until it is over or the lease ends.

Outages are waited out here, and errors of our own program end here: a job that causes them is tried again later.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from pipeline.errors import (
    LeaseLost,
    LedgerUnavailable,
    RecordTooNew,
    RecordUnreadable,
    ServiceError,
    StaleWrite,
    TesseraError,
    UnknownBatch,
)
from pipeline.ledger.jobs import QueuePlace
from pipeline.ledger.leases import UNREADABLE_DELAY_S, Held, Lease
from pipeline.process.backoff import backoff_s
from pipeline.process.redact import redacted
from pipeline.records.attempt import AttemptPhase
from pipeline.records.batch import changed
from pipeline.states import JobState, is_final
from tasks.jobs import retry_policy
from tasks.jobs.advance_job import DETAIL_LIMIT, JOB_STATES, advance_job
from tasks.jobs.finish_attempt import abandon_job
from tasks.jobs.shards import ShardLost
from tasks.process.context import Context

log = structlog.get_logger(__name__)

OUTAGE_PAUSE_S = 0.5  # the first

_STARTED = {JobState.LAUNCHING, *JOB_STATES.values()}


def run_job(context: Context, lease: Lease) -> None:
    """Run the job until it is over, waits for its next attempt, or is no longer ours.

    When the worker stops, the job is handed over at once and its pod left alone. Outages of Redis, S3 or the cluster
    are waited out: they are no failure of the job.
    """
    ref = lease.job.ref
    with (
        structlog.contextvars.bound_contextvars(batch=lease.job.batch_id, job=lease.job.index),
        context.images.held(ref),
    ):
        log.info("job claimed", state=lease.job.state.value)
        try:
            _repeat(context, ref, lease.fence, advance_job)
        except (LeaseLost, UnknownBatch) as error:
            log.warning("job belongs to another worker", reason=str(error))
        except RecordTooNew as error:
            _put_back(context, ref, lease.fence, error)
        except ShardLost as error:
            log.error("job cannot go on, its batch fails", reason=str(error))
            context.ledger.leases.release(ref, lease.fence)  # whoever claims it next ends it
        except Exception as error:  # whatever it is, it must not keep this worker from its other jobs
            log.exception("internal error while running a job")
            _retry_or_abandon(context, lease, f"{type(error).__name__}: {error}")


def _repeat(context: Context, ref: str, fence: str, action: Callable[[Context, Held, str], bool]) -> None:
    """Repeat the action until there is nothing more to do under this lease, or the worker stops."""
    outages = 0  # in a row
    while True:
        try:
            if context.stopping.is_set() or context.handing_over.is_set():
                context.ledger.leases.release(ref, fence)
                log.info("job handed over")
                return
            try:
                held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
            except RecordUnreadable as error:
                _put_back(context, ref, fence, error)
                return
            if is_final(held.job.state) or not action(context, held, fence):
                return
        except StaleWrite:
            continue  # an answer was lost and our own write stands, or somebody moved it: look again
        except RecordUnreadable:
            raise  # no outage
        except ServiceError as error:
            outages += 1
            pause_s = backoff_s(outages, first_s=OUTAGE_PAUSE_S)
            log.warning("waiting for an outage to end", reason=str(error), pause_s=pause_s)
            if not isinstance(error, LedgerUnavailable):
                _record_outage(context, ref, fence, str(error))
            if context.stopping.wait(pause_s):
                return  # it may not be reachable to hand over; the lease ends by itself
            continue
        outages = 0
        context.stopping.wait(context.settings.observe_s)


def _put_back(context: Context, ref: str, fence: str, error: RecordUnreadable) -> None:
    """Leave the job to a worker that can read it."""
    log.error("job put back, its record cannot be read", reason=str(error))
    context.ledger.leases.release(ref, fence, delay_s=UNREADABLE_DELAY_S)


def _record_outage(context: Context, ref: str, fence: str, reason: str) -> None:
    """Record what the job waits for, as `tessera status` shows it; it does not matter if that fails."""
    try:
        held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
        job, detail = held.job, redacted(reason)[:DETAIL_LIMIT]
        if job.state in _STARTED and job.detail != detail:
            context.ledger.jobs.write(changed(job, at=held.at, detail=detail), QueuePlace.HELD, fence=fence)
    except TesseraError as error:
        log.debug("outage could not be recorded", reason=str(error))


def _retry_or_abandon(context: Context, lease: Lease, reason: str) -> None:
    """Try the job again later; after as many times as an attempt may fail, give it up."""
    leases, ref, fence = context.ledger.leases, lease.job.ref, lease.fence
    delay_s = retry_policy.LONGEST_DELAY_S
    try:
        times = leases.count_internal_error(ref, fence)
        if times < context.settings.max_attempts:
            delay_s = backoff_s(times, first_s=retry_policy.FIRST_DELAY_S, longest_s=retry_policy.LONGEST_DELAY_S)
        else:
            log.error("job given up", times=times)
            why = f"{reason} ({times} times; the workers' logs say where)"
            _repeat(context, ref, fence, lambda *args: _abandon(*args, reason=why))
    except RecordUnreadable as error:
        log.error("job could not be given up", reason=str(error), next_try_s=delay_s)
    except TesseraError as error:
        log.warning("job put off", reason=str(error))
    except Exception:  # it cannot even be given up: somebody must look, and no pod may be wasted until then
        log.exception("job could not be given up", next_try_s=delay_s)
    try:
        leases.release(ref, fence, delay_s=delay_s)  # nothing happens if it is over
    except ServiceError as error:
        log.warning("lease could not be released, it will expire", reason=str(error))


def _abandon(context: Context, held: Held, fence: str, *, reason: str) -> bool:
    """End the attempt of a job that is given up, then the job; False when it is over."""
    job = held.job
    if job.attempt is not None and job.state not in (JobState.QUEUED, JobState.RETRYING):
        seen = context.observer.look(after=time.monotonic()).get(job.attempt.name)
        context.launcher.delete(job.attempt.name)
        if seen is not None and seen.phase is not AttemptPhase.ENDED:
            return True
    abandon_job(context, job, fence, reason)
    return False
