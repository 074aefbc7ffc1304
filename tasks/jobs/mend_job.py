"""Replace the record of a job that cannot be read, or is gone, with one that can, so that its images are rendered.

What the ledger has beside the record says which attempt was the last. Its pod loses its claim, and is deleted; what it
has committed is found in the bucket.
"""

from __future__ import annotations

import structlog

from pipeline.errors import ConflictError, RequestError, ServiceError, UnknownBatch
from pipeline.ledger.jobs import QueuePlace
from pipeline.names import attempt_name, parsed_job_ref
from pipeline.records.batch import JobRecord
from pipeline.states import JobState
from tasks.jobs.images import images_at_hand
from tasks.jobs.outage import REASON_LIMIT
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# A pod notices within a second that its claim is gone, and then finishes the uploads that are under way.
FENCE_S = 5.0


def mend_job(context: Context, ref: str, fence: str, reason: str) -> None:
    """Have the job wait for its next attempt under a new record. It must be held under `fence`, or by nobody ("").

    Raises UnknownBatch, LeaseLost, StaleWrite, ServiceError.
    """
    try:
        batch_id, index = parsed_job_ref(ref)
    except RequestError as error:
        raise UnknownBatch(ref) from error
    batch, at = context.ledger.batches.get(batch_id), context.ledger.now()
    if batch.jobs is not None and index >= batch.jobs:
        raise UnknownBatch(ref)
    number = context.ledger.jobs.attempt_on_record(ref)
    images = len(images_at_hand(context, batch.id, index, None)) or 1
    mended = JobRecord.queued(batch, index, images, at).model_copy(
        update={"round": batch.round, "last_number": number, "detail": reason[:REASON_LIMIT]}
    )
    place, delay_s = QueuePlace.BACKLOG, 0.0
    if number:
        mended = mended.model_copy(update={"state": JobState.RETRYING, "fenced_at": at})
        place, delay_s = QueuePlace.DELAYED, FENCE_S
    context.ledger.jobs.replace(mended, place, fence=fence, delay_s=delay_s, cut_into=batch.jobs)
    log.error("the record of a job was replaced", job=ref, reason=reason, attempts=number)
    if number:
        delete_attempt(context, attempt_name(batch.manifest.incarnation, index, number))


def mend_claimed_job(context: Context, ref: str, fence: str, reason: str) -> None:
    """As `mend_job`, for a job that was just claimed: what keeps it from being mended now is logged."""
    try:
        mend_job(context, ref, fence, reason)
    except (ConflictError, UnknownBatch) as error:
        log.warning("job belongs to another worker", job=ref, reason=str(error))
    except ServiceError as error:
        log.warning("the record of a job cannot be replaced yet", job=ref, reason=str(error))


def delete_attempt(context: Context, name: str) -> None:
    """Delete an attempt that no job needs; what cannot be deleted now, the tick deletes later."""
    try:
        context.launcher.delete(name)
    except ServiceError as error:
        log.warning("attempt will be deleted later", name=name, reason=str(error))
