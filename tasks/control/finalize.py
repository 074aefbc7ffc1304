"""Write the results of a batch whose jobs have all ended, once it is proved that every image has exactly one outcome.

The jobs' fragments are the proof: each outcome in them was compared with the bucket when its job ended. Where they do
not prove it, the images are asked for one by one (tasks/control/mend_fragments.py); if that is not enough either, the
batch is rebuilt from the bucket, and what is missing is rendered again. Doing it twice writes the same again. A batch
of which no fragment is wrong, and that is not proved all the same, fails and says so.
"""

from __future__ import annotations

import structlog

from pipeline.errors import LedgerBehind, RecordUnreadable
from pipeline.ledger.assumed import Assumed
from pipeline.names import job_ref
from pipeline.records.batch import BatchRecord, advance
from pipeline.records.end_marker import EndMarker, Vouched
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState
from tasks.control.mend_fragments import mend_fragments
from tasks.control.restart import restart
from tasks.control.write_results import Unproved, write_results
from tasks.jobs.shards import ShardLost
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# If images of a batch are gone so often, what makes them disappear goes on: they end with E_LOST then.
MOST_RESTARTS = 3
# Something may be deleted between two looks, but hardly so often; then the fragments are right and the batch is not.
MOST_MENDS = 2
_IMAGES_AT_A_TIME = 10_000


def finalize(context: Context, batch_id: str) -> None:
    """Write results.jsonl, errors.jsonl and the gallery, then the marker, then the final state to the ledger.

    A ledger that lacks jobs of the batch was rolled back: then the batch is rebuilt from the bucket.
    """
    with context.ledger.locks.only_one(f"finalize-{batch_id}") as mine:
        if not mine:
            return
        try:
            _finalize(context, context.ledger.batches.get(batch_id))
        except LedgerBehind as error:
            log.error("ledger was rolled back", batch=batch_id, reason=str(error))
            restart(context, context.ledger.batches.get(batch_id))


def _finalize(context: Context, record: BatchRecord) -> None:
    batch_id, jobs = record.id, record.jobs
    if jobs is None or record.reopen is not None or context.ledger.jobs.any_unfinished(batch_id):
        return
    assumed = Assumed(jobs=jobs, ended=True)
    if record.state in (BatchState.IN_PROGRESS, BatchState.PAUSED):
        record = advance(record, BatchState.FINALIZING, at=context.ledger.now())
        context.ledger.batches.write(record, assumed)
    if (end := _end_of(record)) is None:
        return
    reason = record.reason
    try:
        vouched = _written(context, record, jobs, end)
    except (ShardLost, Unproved) as error:
        log.error("not every outcome is known", batch=batch_id, reason=str(error))
        if end is BatchState.COMPLETED:
            end, reason = BatchState.FAILED, str(error)
        vouched = _write_what_is_known(context, record, jobs, end)
    if vouched is None:
        return
    marker = EndMarker(state=end, reason=reason, vouched=vouched)
    context.artifacts.put(BatchObjects(batch_id).marker(end), marker.to_bytes(), content_type="application/json")
    context.ledger.batches.write(advance(record, end, at=context.ledger.now(), reason=reason), assumed)
    log.info("batch finished", batch=batch_id, state=end.value)


def _end_of(record: BatchRecord) -> BatchState | None:
    """How a batch ends whose jobs are over; None if it is not at its end. One that is cancelled for a reason failed."""
    if record.state is BatchState.CANCELLING:
        return BatchState.CANCELLED if record.reason is None else BatchState.FAILED
    return BatchState.COMPLETED if record.state is BatchState.FINALIZING else None


def _written(context: Context, record: BatchRecord, jobs: int, end: BatchState) -> Vouched | None:
    """What the results say, once they are written; None if the batch has to be rebuilt first.

    Raises ShardLost; Unproved if its fragments prove nothing however often they are mended.
    """
    if end is BatchState.FAILED:  # nobody can know all of its images any more
        return _write_what_is_known(context, record, jobs, end)
    vouched = _proved(context, record, jobs)
    if vouched is None:
        return None
    counts = context.ledger.batches.counts(record.id).images
    proved = (vouched.succeeded, vouched.failed, vouched.cancelled)
    counted = (counts[ImageState.SUCCEEDED], counts[ImageState.FAILED], counts[ImageState.CANCELLED])
    if counted != proved and record.restarts <= MOST_RESTARTS:
        log.error("ledger and bucket are apart", batch=record.id, ledger=counted, bucket=proved)
        restart(context, record, restarts=record.restarts + 1)
        return None
    return vouched


def _proved(context: Context, record: BatchRecord, jobs: int) -> Vouched | None:
    """As `_written`, of a batch whose images can all be known."""
    for _ in range(MOST_MENDS):
        try:
            return write_results(context, record.manifest, jobs)
        except Unproved as error:
            log.warning("images are asked for one by one", batch=record.id, reason=str(error))
        losing = record.restarts >= MOST_RESTARTS
        if missing := mend_fragments(context, record, jobs, losing=losing):
            log.error("images have neither picture nor error", batch=record.id, images=missing, lost=losing)
            restart(context, record, restarts=record.restarts + 1)
            return None
    return write_results(context, record.manifest, jobs)


def _write_what_is_known(context: Context, record: BatchRecord, jobs: int, end: BatchState) -> Vouched:
    """The results of a batch of which shards are lost: nobody can know what its other images were."""
    incarnation = record.manifest.incarnation
    open_states = (ImageState.QUEUED, ImageState.RUNNING)
    to = ImageState.CANCELLED if end is BatchState.CANCELLED else ImageState.FAILED
    for first in range(0, record.manifest.images, _IMAGES_AT_A_TIME):
        some = range(first, min(first + _IMAGES_AT_A_TIME, record.manifest.images))
        try:
            states = context.ledger.images.states(record.id, some)
            left = [index for index, state in zip(some, states, strict=True) if state in open_states]
        except RecordUnreadable:
            left = list(some)  # those that may not move stay as they are
        context.ledger.images.move_by_worker(
            record.id, job_ref(record.id, 0), left, to, incarnation=incarnation, fence=""
        )
    return write_results(context, record.manifest, jobs, proving=False)
