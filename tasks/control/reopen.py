"""Reopen the jobs of a batch whose failures `tessera retry` asks to render again.

Doing it twice changes nothing: a job records the round in which it was reopened.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from pipeline.bucket.job_outcomes import reported_outcomes
from pipeline.errors import ConflictError
from pipeline.ledger.jobs import QueuePlace
from pipeline.names import job_ref
from pipeline.records.batch import BatchRecord, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import is_retried
from pipeline.states import BatchState, ImageState, JobState
from tasks.control.let_run import let_run
from tasks.control.restart import withdraw_results
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def reopen(context: Context, batch_id: str) -> None:
    """Remove the results of a batch, and put every job with a failure to retry into the backlog again.

    If the batch was cancelled in the meantime, no more jobs are reopened, and its results are written anew.
    """
    with context.ledger.locks.only_one(f"reopen-{batch_id}") as mine:
        record = context.ledger.batches.get(batch_id)
        if not mine or record.reopen is None or record.state not in (BatchState.VALIDATING, BatchState.CANCELLING):
            return
        withdraw_results(context.artifacts, BatchObjects(batch_id))
        before, opened = context.ledger.batches.reopened(batch_id), 0
        if record.state is BatchState.VALIDATING:
            opened = sum(_reopen_job(context, record, index) for index in range(record.jobs or 0))
        let_run(context, batch_id, reopened=before + opened, reopen=None, **_mended_image(context, record))
        log.info("batch reopened", batch=batch_id, jobs=opened, codes=record.reopen)


def _mended_image(context: Context, record: BatchRecord) -> Mapping[str, str]:
    """The deployment's image of now, unless a picture was made with that of the batch: all of its pictures have one."""
    there = context.ledger.batches.counts(record.id).images[ImageState.SUCCEEDED]
    image = context.settings.image
    return {} if there or image is None or image == record.pod_image else {"image": image}


def _reopen_job(context: Context, record: BatchRecord, index: int) -> bool:
    job = context.ledger.jobs.get(job_ref(record.id, index))
    if job is None or job.round == record.round:
        return False
    reported = reported_outcomes(context.artifacts, BatchObjects(record.id), index)
    is_known = reported.whole and len(reported.outcomes) == job.images  # otherwise whoever claims it finds out
    if is_known and not any(is_retried(one, record.reopen or ()) for one in reported.outcomes.values()):
        return False
    opened = changed(
        job, at=context.ledger.now(), state=JobState.QUEUED, round=record.round, reopen=record.reopen, confirmed=False
    )
    try:
        context.ledger.jobs.write(opened, QueuePlace.BACKLOG, fence="")
    except ConflictError as error:
        log.info("job was already reopened", job=job.ref, reason=str(error))
        return False
    return True
