"""The images of a job: what its shard names. A shard that is gone or damaged is made again from the batch's rows."""

from __future__ import annotations

import structlog

from pipeline.bucket.fetch import fetch_lines, fetch_shard
from pipeline.errors import RecordTooNew, RecordUnreadable, StoreUnavailable
from pipeline.records.batch import JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from tasks.jobs.shards import ShardLost, rebuild_shard
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def job_images(context: Context, job: JobRecord) -> list[ImageTask]:
    """The images of a job, in order.

    Raises ShardLost if nobody can know them any more, RecordUnreadable if another version must read them, ServiceError.
    """
    if (known := context.images.get(job.ref)) is not None:
        return known
    images = _load(context, job.batch_id, job.index, wanted=job.images)
    context.images.keep(job.ref, images)
    return images


def images_at_hand(context: Context, batch_id: str, index: int, images: int | None) -> list[ImageTask]:
    """The images of a job that must go on or end, whatever has become of its shard: those that can be known.

    `images` is how many there are, if that is known. Raises ServiceError other than RecordUnreadable.
    """
    try:
        return _load(context, batch_id, index, wanted=images)
    except (ShardLost, RecordUnreadable) as error:
        log.error("nobody knows all images of a job", batch=batch_id, job=index, reason=str(error))
    key = BatchObjects(batch_id).shard(index)
    found: list[ImageTask] = []
    for line in fetch_lines(context.artifacts, key) or ():
        try:
            found += images_of(parsed_shard(line, key))
        except RecordUnreadable:
            continue  # finalization finds out which are missing
    return found


def _load(context: Context, batch_id: str, index: int, *, wanted: int | None) -> list[ImageTask]:
    key = BatchObjects(batch_id).shard(index)
    images = _read(context, key, wanted)
    if images is None or isinstance(images, RecordUnreadable):
        rebuild_shard(context, batch_id, index, damaged=images is not None)
        images = _read(context, key, wanted)
    if images is None:
        raise StoreUnavailable(f"{key} was written again, and {context.artifacts.where} does not show it yet")
    if isinstance(images, RecordUnreadable):
        raise images
    return images


def _read(context: Context, key: str, wanted: int | None) -> list[ImageTask] | RecordUnreadable | None:
    """The images that the shard names, what is wrong with it, or None if it is not there. Raises RecordTooNew."""
    try:
        images = fetch_shard(context.artifacts, key, patient=False)  # the job waits, not its worker
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        return error
    if images is not None and wanted is not None and len(images) != wanted:
        return RecordUnreadable(key, f"a shard of {len(images)} images", f"one of {wanted}")
    return images
