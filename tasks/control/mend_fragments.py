"""Make the fragments of a batch anew that are gone or do not say what they should: image by image, from the objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from pipeline.bucket.commit import commit_failure
from pipeline.bucket.job_outcomes import confirmed_outcomes, reported_outcomes
from pipeline.bucket.sizes import pictures_gone
from pipeline.names import job_ref
from pipeline.records.batch import BatchRecord, JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, ImageOutcome, failure_of
from pipeline.records.shards import ImageTask
from pipeline.states import BatchState
from tasks.jobs.finish_attempt import write_fragment
from tasks.jobs.images import job_images
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def mend_fragments(context: Context, record: BatchRecord, jobs: int, *, losing: bool) -> int:
    """Have every job's fragment hold one outcome for each of its images; returns of how many there is none.

    A fragment that is right, and whose pictures are there, is left as it is. Every other image is asked for by its key,
    never by a list. Images of a batch that is being cancelled are cancelled if nothing else is known of them. With
    `losing`, the missing ones fail with E_LOST, which is written down. Raises ShardLost, ServiceError.
    """
    objects, artifacts = BatchObjects(record.id), context.artifacts
    missing = 0
    for index in range(jobs):
        job = context.ledger.jobs.get(job_ref(record.id, index)) or JobRecord.queued(
            record, index, 1, record.updated_at
        )
        tasks = job_images(context, job)
        reported = reported_outcomes(artifacts, objects, index)
        if (
            reported.whole
            and reported.outcomes.keys() == {task.index for task in tasks}
            and not pictures_gone(artifacts, reported.outcomes.values())
        ):
            continue
        known = confirmed_outcomes(artifacts, objects, tasks, reported.outcomes, by_key=True)
        left = [task for task in tasks if task.index not in known]
        known |= _cancelled(record, left, reported.outcomes)
        left = [task for task in left if task.index not in known]
        missing += len(left)
        for task in left if losing else ():
            lost = failure_of(task, FailureCode.LOST, "neither its picture nor an error is there", retryable=True)
            commit_failure(artifacts, objects, lost)
            known[task.index] = lost
        if len(known) == len(tasks):
            write_fragment(context, job, [known[task.index] for task in tasks])
            log.warning("fragment made again from its images", batch=record.id, job=index, images=len(tasks))
    return missing


def _cancelled(
    record: BatchRecord, tasks: Sequence[ImageTask], reported: Mapping[int, ImageOutcome]
) -> dict[int, ImageOutcome]:
    """Those of these images that were cancelled, of which there is nothing but a line in a fragment."""
    cancelled: dict[int, ImageOutcome] = {}
    for task in tasks:
        before = reported.get(task.index)
        if isinstance(before, ImageFailure) and before.code is FailureCode.CANCELLED:
            cancelled[task.index] = before
        elif record.state is BatchState.CANCELLING:
            reason = "the batch was cancelled"
            cancelled[task.index] = failure_of(task, FailureCode.CANCELLED, reason, retryable=True)
    return cancelled
