"""What a job waits for that is none of its faults. While it waits it holds no slot, and its record says why."""

from __future__ import annotations

import random
from datetime import timedelta

import structlog

from pipeline.errors import ServiceError
from pipeline.ledger.jobs import QueuePlace
from pipeline.process.backoff import CAP_S, backoff_s
from pipeline.process.redact import redacted
from pipeline.records.batch import JobRecord, Wait, advance, changed
from pipeline.states import JobState
from tasks.process.context import Context

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.5
REASON_LIMIT = 500  # characters

# For how long a job waits for a version that can read its rows, and its batch for pods that do not end when asked.
READABLE_WITHIN_S, PODS_END_WITHIN_S = 600.0, 120.0


class PodGoesOn(ServiceError):
    """An attempt cannot be looked at now. Its pod renders on, so the job keeps its slot."""


class WeightsUnderWay(ServiceError):
    """Somebody still copies the weights that an attempt needs. Until then it is not launched, and holds no GPUs."""


def give_back(context: Context, job: JobRecord, fence: str, reason: str, *, took_s: float) -> None:
    """Leave the job to whoever claims it after a delay, which grows while the reason lasts; no attempt is spent.

    However many jobs wait, and however long each of their tries takes (`took_s`: this one), together they take up half
    of one slot, so that jobs which can go on do. Raises LeaseLost, StaleWrite, LedgerUnavailable.
    """
    waiting = record_wait(context, job, fence, reason)
    times = waiting.wait.times if waiting.wait is not None else 1
    fair_s = 2 * took_s * (1 + context.ledger.leases.delayed())
    delay_s = max(backoff_s(times, first_s=FIRST_PAUSE_S, random=random.random), min(fair_s, CAP_S))
    context.ledger.leases.release(job.ref, fence, delay_s=delay_s)
    log.warning("job given back until it can go on", reason=reason, times=times, delay_s=round(delay_s, 1))


def record_wait(context: Context, job: JobRecord, fence: str, reason: str) -> JobRecord:
    """The job with what it waits for, as `tessera status` shows it; in the ledger too, under the lease."""
    at, before = context.ledger.now(), job.wait
    since, times = (before.since, before.times) if before is not None else (at, 0)
    wait = Wait(reason=redacted(reason)[:REASON_LIMIT], since=since, times=times + 1)
    if job.state is JobState.QUEUED:  # it has begun, in that somebody has tried
        waiting = advance(job, JobState.RETRYING, at=at, wait=wait)
    else:
        waiting = changed(job, at=at, wait=wait)
    context.ledger.jobs.write(waiting, QueuePlace.HELD, fence=fence)
    return waiting


def has_waited(job: JobRecord, seconds: float, context: Context) -> bool:
    """Whether the job has waited for longer than this."""
    return job.wait is not None and context.ledger.now() - job.wait.since > timedelta(seconds=seconds)
