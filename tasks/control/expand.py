"""Cut an accepted batch into shards and jobs. Doing it twice gives the same, for they follow from the rows."""

from __future__ import annotations

from contextlib import nullcontext

import structlog

from pipeline.deployment.announcement import Deployment
from pipeline.deployment.cost import SDXL_NATIVE_PX
from pipeline.deployment.speed import UNKNOWN_IMAGES, paces
from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.process.parallel import in_order
from pipeline.records.batch import BatchRecord, JobRecord, Pace, Plan, advance, changed
from pipeline.records.end_marker import EndMarker
from pipeline.records.object_keys import BatchObjects
from pipeline.schema import read_record
from pipeline.states import BatchState
from pipeline.version import installed_version
from tasks.control.let_run import let_run
from tasks.control.rebuild import (
    end_of,
    find_remains,
    restore_ended_batch,
    restore_from_fragments,
    restore_job,
)
from tasks.control.restart import restart, withdraw_results
from tasks.jobs.images import job_images
from tasks.jobs.shards import AT_A_TIME, ImagesDiffer, InputChanged, write_shards
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# Such a batch takes tens of seconds; other work of a controller may wait for one of them, not for several.
LARGE_IMAGES = 50_000


def expand(context: Context, batch_id: str) -> None:
    """Write the shards and job records of a batch that has none yet, then start it.

    A batch that is being cancelled is expanded too, so that each of its images gets an outcome. Large batches are
    expanded one at a time, so that small ones do not wait behind them; the tick asks again for those left over.
    """
    with context.ledger.locks.only_one(f"expand-{batch_id}") as mine:
        record = context.ledger.batches.get(batch_id)
        if not mine or record.jobs is not None or record.state not in (BatchState.VALIDATING, BatchState.CANCELLING):
            return
        is_large = record.manifest.images > LARGE_IMAGES
        with context.ledger.locks.only_one("large-expansion") if is_large else nullcontext(True) as our_turn:
            if our_turn:
                _expand(context, record)


def _expand(context: Context, record: BatchRecord) -> None:
    batch_id, now = record.id, context.ledger.now()
    if record.recovered and (end := end_of(context.artifacts, BatchObjects(batch_id))) is not None:
        if not restore_ended_batch(context, record, end, now):
            withdraw_results(context.artifacts, BatchObjects(batch_id))
            cancelled = end.state is BatchState.CANCELLED
            restart(context, record, state=BatchState.CANCELLING if cancelled else record.state)
        return
    if record.images_per_job is None:
        plan = _plan(context, batch_id)
        record = changed(record, at=now, images_per_job=plan.images_per_job, pace=plan.pace)
        context.ledger.batches.write(record)
    remains = find_remains(context, record)
    try:
        sizes = write_shards(context, record)
    except InputChanged as error:
        is_lost = record.recovered and not isinstance(error, ImagesDiffer)
        if is_lost and (restored := restore_from_fragments(context, record, now, asking=True)) is not None:
            log.error("restored without its rows", batch=batch_id, reason=str(error))
            let_run(context, batch_id, jobs=restored)
            return
        context.ledger.batches.write(advance(record, BatchState.FAILED, at=now, reason=str(error)))
        marker, key = (
            EndMarker(state=BatchState.FAILED, reason=str(error)),
            BatchObjects(batch_id).marker(BatchState.FAILED),
        )
        context.artifacts.put(key, marker.to_bytes(), content_type="application/json")
        log.error("batch failed", batch=batch_id, reason=str(error))
        return
    jobs = (JobRecord.queued(record, index, images, now) for index, images in enumerate(sizes))
    if record.recovered:

        def restore_one(job: JobRecord) -> None:
            restore_job(context, job, job_images(context, job), remains)

        for _ in in_order(restore_one, jobs, at_a_time=AT_A_TIME):
            pass
    else:
        context.ledger.jobs.create_all(jobs)
    let_run(context, batch_id, jobs=len(sizes))
    log.info("batch expanded", batch=batch_id, jobs=len(sizes), images=sum(sizes))


def _pace(context: Context) -> Pace:
    settings = context.settings
    native_px = max((model.native_px for model in settings.models.values()), default=SDXL_NATIVE_PX)
    return Pace(
        job_seconds=settings.job_seconds,
        layout=Deployment.of(settings, installed_version()).usual_layout(native_px, native_px),
        faster=paces(context.ledger.speeds.all()),
        native_px={name: model.native_px for name, model in settings.models.items()},
    )


def _plan(context: Context, batch_id: str) -> Plan:
    """How the batch is cut. Stored once, so that a controller with other settings goes on in the same way."""
    pace, most = _pace(context), context.settings.images_per_job
    ours = Plan(images_per_job=most if pace.faster else min(UNKNOWN_IMAGES, most), pace=pace)
    key = BatchObjects(batch_id).plan
    if context.artifacts.put_new(key, ours.model_dump_json().encode(), content_type="application/json"):
        return ours
    there = context.artifacts.get_tagged(key)
    if there is None:
        return ours
    try:
        return read_record(Plan, there.body, what=key)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        # Another cut gives other jobs, and the same images under the same keys.
        log.error("a damaged plan is made anew", batch=batch_id, reason=str(error))
        body = ours.model_dump_json().encode()
        if context.artifacts.put_new(key, body, content_type="application/json", over=there.etag):
            return ours
        raise
