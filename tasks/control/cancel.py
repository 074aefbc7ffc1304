"""Cancel the waiting jobs of a batch, some at a time, so that a large batch does not block other work.

Jobs that a worker holds are cancelled by that worker (tasks/jobs/advance_job.py). One job that cannot be cancelled now
keeps no other from its end.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from pipeline.deployment.broker import CANCEL, send_hint
from pipeline.errors import ConflictError, LedgerUnavailable, RecordUnreadable, ServiceError, StaleWrite, UnknownBatch
from pipeline.records.batch import JobRecord
from pipeline.states import BatchState, JobState
from tasks.jobs.finish_attempt import cancel_job
from tasks.jobs.mend_job import FENCE_S, mend_job
from tasks.process.context import Context

log = structlog.get_logger(__name__)

JOBS_AT_A_TIME = 200


def cancel(context: Context, batch_id: str) -> None:
    """Cancel some of the batch's waiting jobs, then send a hint for the rest; if it is lost, the tick sends another.

    Raises ServiceError if some of them cannot be cancelled now, after it has tried the others.
    """
    put_off: ServiceError | None = None
    with context.ledger.locks.only_one(f"cancel-{batch_id}") as mine:
        if not mine or context.ledger.batches.state(batch_id) is not BatchState.CANCELLING:
            return
        left = JOBS_AT_A_TIME
        for ref in context.ledger.jobs.unfinished(batch_id):
            if context.stopping.is_set():
                return
            try:
                left -= _cancel_if_it_waits(context, ref)
            except (LedgerUnavailable, UnknownBatch):
                raise
            except ConflictError as error:
                log.info("job was claimed before it could be cancelled", job=ref, reason=str(error))
            except ServiceError as error:
                log.warning("job cannot be cancelled yet", job=ref, reason=str(error))
                put_off = put_off or error
            if left == 0:
                break
    if put_off is not None:
        raise put_off
    if left == 0:
        send_hint(context.app, CANCEL, batch_id)


def _cancel_if_it_waits(context: Context, ref: str) -> bool:
    """True if the job waited, and is cancelled or can be the next time."""
    try:
        job = context.ledger.jobs.get(ref)
    except RecordUnreadable as error:
        return _mend(context, ref, str(error))
    if job is None:
        return _mend(context, ref, f"job {ref} has no record")
    if job.state not in (JobState.QUEUED, JobState.RETRYING) or _may_still_commit(context, job):
        return False
    if context.ledger.jobs.held(ref):
        return False
    try:
        cancel_job(context, job, fence="")
    except StaleWrite as error:
        now = context.ledger.jobs.get(ref)
        if now is None or now.revision != job.revision:
            raise
        return _mend(context, ref, f"what stands beside the record of job {ref} is not of it: {error}")
    return True


def _mend(context: Context, ref: str, reason: str) -> bool:
    if context.ledger.jobs.held(ref):
        return False
    mend_job(context, ref, "", reason)
    return True


def _may_still_commit(context: Context, job: JobRecord) -> bool:
    """Whether a pod that lost its claim may not have noticed yet."""
    fenced = job.fenced_at
    return fenced is not None and context.ledger.now() - fenced < timedelta(seconds=FENCE_S)
