"""Bring a ledger that is in doubt in line with the bucket, so that it may be acted upon again.

Whatever Redis was put back to is a state that was true once, so most of it mends itself: jobs are claimed again, and
find their images in the bucket. What does not is looked for: batches that the ledger has forgotten, those that have not
ended, those whose end in the bucket is another than the ledger's, and schedules. Doing it twice changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

import structlog

from pipeline.bucket.fetch import fetch_marker
from pipeline.deployment.broker import TICK, send_hint
from pipeline.errors import ConflictError, RecordUnreadable, UnknownBatch
from pipeline.ledger.counts import Counts
from pipeline.operations.purge import is_purged
from pipeline.operations.resume import recover_batch, unknown_batches
from pipeline.process.parallel import in_order
from pipeline.records.attempt import AttemptPhase
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState, is_final
from tasks.control.generation import confirm
from tasks.control.go_on import go_on
from tasks.control.rebuild import end_of
from tasks.control.reconcile import Reconciled, reconcile
from tasks.control.reconcile_schedules import reconcile_schedules
from tasks.control.restart import restart
from tasks.process.context import Context

log = structlog.get_logger(__name__)

AT_A_TIME = 8  # batches whose end is asked for in the bucket
RECONCILED_AT_A_TIME = 4
# A batch that another process works on is asked for again so often.
TRIES, PAUSE_S = 10, 1.0
# Batches that were accepted this long before the ledger was last in order are sure to be in it.
MARGIN = timedelta(hours=1)


def verify_ledger(context: Context) -> None:
    """Reconcile every batch and schedule that a rollback may have touched, then let the ledger be believed again.

    If Redis is rolled back once more meanwhile, it stays in doubt. Raises ServiceError in an outage; the next tick asks
    again.
    """
    with context.ledger.locks.only_one("verify-ledger") as mine:
        standing, server = context.ledger.generations.read(), context.ledger.generations.server()
        if not mine or standing is None or not standing.doubt:
            return
        began, done = time.monotonic(), Counter[str]()
        suspects = _suspects(context, standing.good_at)
        for result in in_order(lambda one: _reconciled(context, one), suspects, at_a_time=RECONCILED_AT_A_TIME):
            if context.stopping.is_set():
                return
            done[result] += 1
        done["schedules"] = reconcile_schedules(context)
        if confirm(context, standing.generation.token, server):
            seconds = round(time.monotonic() - began, 1)
            log.warning("the ledger has been compared with the bucket", seconds=seconds, **done)
            send_hint(context.app, TICK)


def _suspects(context: Context, good_at: datetime | None) -> Iterator[str]:
    """Ids of all batches that a rollback may have touched, each once."""
    seen = set[str]()
    # A ledger that knows nothing was emptied: what had ended stays in the bucket alone until `tessera resume`.
    after = None if good_at is None else good_at - MARGIN
    for manifest in unknown_batches(context.ledger, context.artifacts, ended=after is not None):
        with go_on(context, "batch could not be put back into the ledger", batch=manifest.id):
            recent = after is None or manifest.created_at >= after
            if recent or end_of(context.artifacts, BatchObjects(manifest.id)) is None:
                recover_batch(context.ledger, manifest)
                seen.add(manifest.id)
    seen |= _adopt_forgotten(context)
    for batch_id in context.ledger.batches.unfinished():
        if batch_id not in seen:
            seen.add(batch_id)
            yield batch_id

    def differs(one: tuple[str, BatchState, Counts] | str) -> str | None:
        if isinstance(one, str):  # damaged
            return one
        with go_on(context, "end of a batch could not be compared with the bucket", batch=one[0]):
            return one[0] if _differs(context, *one) else None
        return one[0]

    for found in in_order(differs, context.ledger.batches.ended(), at_a_time=AT_A_TIME):
        if found is not None and found not in seen:
            seen.add(found)
            yield found


def _adopt_forgotten(context: Context) -> set[str]:
    """Rebuild batches of which an attempt runs that the ledger has forgotten, so that it is adopted; returns their ids.

    Otherwise the job would be begun anew beside it, and its pod, which has a token that nobody knows, be sent away.
    """
    adopted = set[str]()
    for name, seen in context.launcher.observe().items():
        if seen.spec is None or seen.phase is AttemptPhase.ENDED or seen.spec.batch_id in adopted:
            continue
        try:
            record = context.ledger.batches.get(seen.spec.batch_id)
            job = context.ledger.jobs.get(seen.spec.job_ref)
        except (UnknownBatch, RecordUnreadable):
            continue
        on_record = job.attempt if job is not None else None
        newer = on_record is None or on_record.number < seen.spec.number
        if is_final(record.state) or seen.spec.incarnation != record.manifest.incarnation or not newer:
            continue
        log.warning("an attempt runs that the ledger has forgotten", batch=record.id, name=name)
        with go_on(context, "batch of an attempt that runs could not be rebuilt", batch=record.id):
            try:
                restart(context, record)
            except ConflictError as error:
                log.info("batch has moved on", batch=record.id, reason=str(error))
            else:
                adopted.add(record.id)
    return adopted


def _differs(context: Context, batch_id: str, state: BatchState, counts: Counts) -> bool:
    """Whether the bucket does not say of a batch's end what the ledger says, or that it is to be purged."""
    try:
        marker = fetch_marker(context.artifacts, BatchObjects(batch_id), state)
        purged = is_purged(context.artifacts, batch_id)
    except RecordUnreadable:
        return True
    if marker is None:
        return True
    images, vouched = counts.images, marker.vouched
    counted = (images[ImageState.SUCCEEDED], images[ImageState.FAILED], images[ImageState.CANCELLED])
    proved = counted if vouched is None else (vouched.succeeded, vouched.failed, vouched.cancelled)
    return purged or marker.damaged or counted != proved


def _reconciled(context: Context, batch_id: str) -> str:
    """What became of a batch. An error of one batch leaves the others alone; an outage ends it all."""
    with go_on(context, "batch could not be compared with the bucket", batch=batch_id):
        for _ in range(TRIES):
            try:
                if (result := reconcile(context, batch_id)) is not Reconciled.BUSY:
                    return result.value
            except ConflictError as error:
                log.info("batch has moved on", batch=batch_id, reason=str(error))
            context.stopping.wait(PAUSE_S)
        return Reconciled.BUSY.value
    return "failed"
