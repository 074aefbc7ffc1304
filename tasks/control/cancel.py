"""Cancel the waiting jobs of a batch, some at a time, so that a large batch does not block other work.

Jobs that a worker holds are cancelled by that worker (tasks/jobs/run_job.py).
"""

from __future__ import annotations

import structlog

from pipeline.deployment.broker import CANCEL, send_hint
from pipeline.errors import ConflictError
from pipeline.records.batch import JobRecord
from pipeline.states import BatchState, JobState
from tasks.jobs.finish_attempt import cancel_job
from tasks.process.context import Context

log = structlog.get_logger(__name__)

JOBS_AT_A_TIME = 200


def cancel(context: Context, batch_id: str) -> None:
    """Cancel some of the batch's waiting jobs, then send a hint for the rest; if it is lost, the tick sends another."""
    with context.ledger.locks.only_one(f"cancel-{batch_id}") as mine:
        if not mine or context.ledger.batches.state(batch_id) is not BatchState.CANCELLING:
            return
        left = JOBS_AT_A_TIME
        for ref in context.ledger.jobs.unfinished(batch_id):
            if context.stopping.is_set():
                return
            job = context.ledger.jobs.get(ref)
            if job is not None and job.state in (JobState.QUEUED, JobState.RETRYING):
                _cancel_waiting(context, job)
                left -= 1
            if left == 0:
                break
    if left == 0:
        send_hint(context.app, CANCEL, batch_id)


def _cancel_waiting(context: Context, job: JobRecord) -> None:
    if context.ledger.jobs.held(job.ref):
        return
    try:
        cancel_job(context, job, fence="")
    except ConflictError as error:
        log.info("job was claimed before it could be cancelled", job=job.ref, reason=str(error))
