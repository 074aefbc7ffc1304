"""Find batches and jobs that stand in no queue, because one was lost or damaged, and put them where they belong.

Work is found by queues: what is in none is never looked at again. Records say where each belongs.
"""

from __future__ import annotations

import structlog

from pipeline.errors import ConflictError, RecordUnreadable, UnknownBatch
from tasks.jobs.mend_job import mend_job
from tasks.process.context import Context

log = structlog.get_logger(__name__)

JOBS_EVERY_S, LISTS_EVERY_S = 30.0, 300.0


def clear_queues(context: Context) -> None:
    """Remove what keeps a queue from being used; it is filled again by this tick or a later one."""
    if removed := context.ledger.queues.clear_damaged():
        log.error("queues of the ledger were damaged and are filled again", keys=removed)
        fill_queues(context)


def fill_queues(context: Context) -> None:
    """Look at all batches and at all jobs of those under way."""
    list_again(context)
    requeue_all(context)
    context.ledger.queues.count_leases()


def list_again(context: Context) -> None:
    """Put every batch that has a record into the lists of batches."""
    if found := context.ledger.queues.list_again():
        log.error("batches that no list had are listed again", batches=len(found), first=found[0])


def requeue_all(context: Context) -> None:
    """Have every job of batches under way that stands in no queue claimed again."""
    put = sum(_requeue(context, batch_id) for batch_id in context.ledger.batches.unfinished())
    if put:
        context.ledger.queues.count_leases()  # some of them may have been held


def _requeue(context: Context, batch_id: str) -> int:
    """How many of its jobs were put back. What is not as it should be beside them keeps no other batch waiting."""
    put = 0
    try:
        if context.ledger.batches.get(batch_id).jobs is not None:  # else it is being cut
            found = context.ledger.queues.requeue(batch_id)
            put = found.jobs
            for ref in found.gone:
                mend_job(context, ref, "", f"job {ref} was in no queue, and has no record")
    except (ConflictError, UnknownBatch, RecordUnreadable) as error:
        log.info("jobs are not looked at now", batch=batch_id, reason=str(error))
    if put:
        log.error("jobs that no queue had may be claimed again", batch=batch_id, jobs=put)
    return put
