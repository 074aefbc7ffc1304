"""Cut an accepted batch into jobs. Doing it twice changes nothing: shards and jobs follow from the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime

import structlog
from pydantic import ValidationError

from pipeline.errors import StaleWrite, TesseraError
from pipeline.objects import BatchObjects
from pipeline.records import BatchRecord, JobRecord, advance, changed
from pipeline.request import ResolvedRow
from pipeline.shards import cut, images_of, shard_bytes
from pipeline.states import BatchState
from tasks.context import Context

log = structlog.get_logger(__name__)


def expand(context: Context, batch_id: str) -> None:
    """Write the shards and job records of a batch that has none yet, then let it run.

    A batch that is being cancelled is expanded too, so that each of its images gets an outcome.
    """
    with context.ledger.locks.only_one(f"expand-{batch_id}") as mine:
        record = context.ledger.batches.get(batch_id)
        if not mine or record.jobs is not None or record.state not in (BatchState.VALIDATING, BatchState.CANCELLING):
            return
        now = context.ledger.now()
        if record.images_per_job is None:  # settled once: a controller of another setting may have to go on with it
            record = changed(record, at=now, images_per_job=context.settings.images_per_job)
            context.ledger.batches.write(record)
        try:
            sizes = _write_shards(context, record)
        except InputChanged as error:
            context.ledger.batches.write(advance(record, BatchState.FAILED, at=now, reason=str(error)))
            marker = BatchObjects(batch_id).marker(BatchState.FAILED)
            context.artifacts.put(marker, str(error).encode(), content_type="text/plain")
            log.error("batch failed", batch=batch_id, reason=str(error))
            return
        for index, images in enumerate(sizes):
            context.ledger.jobs.create(_job(record, index, images, now))
        _let_run(context, record, len(sizes), now)
        log.info("batch expanded", batch=batch_id, jobs=len(sizes), images=sum(sizes))


class InputChanged(TesseraError):
    """What lies in the bucket is not what was accepted."""


def _write_shards(context: Context, record: BatchRecord) -> list[int]:
    """Write every shard; returns how many images each has. Raises InputChanged."""
    objects = BatchObjects(record.id)
    key = objects.input(record.manifest.staged)
    digest = hashlib.sha256()
    rows = _rows(context.artifacts.lines(key), digest)
    sizes = []
    try:
        for index, shard in enumerate(cut(rows, record.images_per_job or context.settings.images_per_job)):
            context.artifacts.put(objects.shard(index), shard_bytes(shard), content_type="application/x-ndjson")
            sizes.append(len(images_of(shard)))
    except ValidationError as error:
        raise InputChanged(f"{key} has a line that is no row of this version") from error
    if digest.hexdigest() != record.manifest.input_sha256:
        raise InputChanged(f"{key} is not what was accepted: its digest differs from the one in batch.json")
    return sizes


def _rows(lines: Iterator[bytes], digest: hashlib._Hash) -> Iterator[ResolvedRow]:
    for line in lines:
        digest.update(line + b"\n")
        yield ResolvedRow.model_validate_json(line)


def _job(record: BatchRecord, index: int, images: int, now: datetime) -> JobRecord:
    manifest = record.manifest
    return JobRecord(
        batch_id=manifest.id,
        incarnation=manifest.incarnation,
        index=index,
        tenant=manifest.tenant,
        priority=manifest.priority,
        created_at=manifest.created_at,
        updated_at=now,
        images=images,
    )


def _let_run(context: Context, record: BatchRecord, jobs: int, now: datetime) -> None:
    while True:
        try:
            if record.state is BatchState.VALIDATING:
                context.ledger.batches.write(advance(record, BatchState.IN_PROGRESS, at=now, jobs=jobs))
            else:
                context.ledger.batches.write(changed(record, at=now, jobs=jobs))
        except StaleWrite:
            record = context.ledger.batches.get(record.id)  # it was cancelled meanwhile
        else:
            return
