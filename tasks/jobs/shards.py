"""The shards of a batch: cut from its accepted rows and written, and written again where one is gone.

The same rows and the same plan always give the same shards, so a shard is lost only with the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import structlog

from pipeline.errors import ObjectGone, RecordTooNew, RecordUnreadable, StoreUnavailable, TesseraError
from pipeline.process.parallel import in_order
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.batch import BatchManifest, BatchRecord, advance
from pipeline.records.object_keys import BatchObjects
from pipeline.records.shards import Bounds, Shard, cut, shard_bytes
from pipeline.schema import read_record
from pipeline.states import BatchState, is_final
from tasks.process.context import Context

log = structlog.get_logger(__name__)

AT_A_TIME = 8  # shards that are being written
# How long rows are looked for before their batch ends for want of them: a store may be late, or have a bad minute.
LATE_S = 60.0


class InputChanged(TesseraError):
    """The rows in the bucket are not those that were accepted, or are gone."""


class ImagesDiffer(InputChanged):
    """The rows in the bucket are those that were accepted, and `batch.json` says another number of images."""


class ShardLost(TesseraError):
    """A shard is gone, and so are the rows that it was cut from: its batch ends as failed, with the reason."""


def write_shards(context: Context, record: BatchRecord) -> list[int]:
    """Write all shards, a few at a time; returns how many images each has.

    Raises InputChanged, RecordUnreadable or ServiceError; some may be written then.
    """
    objects = BatchObjects(record.id)

    def put(numbered: tuple[int, Shard]) -> int:
        index, shard = numbered
        context.artifacts.put(objects.shard(index), shard_bytes(shard), content_type="application/x-ndjson")
        return sum(line.stop - line.start for line in shard)

    return list(in_order(put, enumerate(shards_of(context, record)), at_a_time=AT_A_TIME))


def rebuild_shard(context: Context, batch_id: str, index: int, *, damaged: bool = False) -> None:
    """Write a shard that is gone or damaged once more, and with it all others of its batch that are gone.

    The rows are compared with the accepted ones before anything is written. Raises ShardLost if they are gone or are
    others: the batch ends as failed then. Raises StoreUnavailable if another process does this now, UnknownBatch,
    RecordUnreadable or ServiceError; doing it again goes on.
    """
    objects = BatchObjects(batch_id)
    with context.ledger.locks.only_one(f"shards-{batch_id}") as mine:
        if not mine:
            raise StoreUnavailable(f"{objects.shard(index)} is being written again by another process")
        record = context.ledger.batches.get(batch_id)
        if not damaged and context.artifacts.head(objects.shard(index)) is not None:
            return  # it was late, or another process has written it
        try:
            written = _write_gone(context, record, index, over=damaged)
        except InputChanged as error:
            reason = f"{objects.shard(index)} is gone or damaged, and cannot be made again: {error}"
            fail_batch(context, batch_id, reason)
            raise ShardLost(reason) from error
        log.warning("shards that were gone are written again", batch=batch_id, shards=written)


def _write_gone(context: Context, record: BatchRecord, index: int, *, over: bool) -> int:
    """Write those shards that are gone, `index` among them or, with `over`, in any case; returns how many.

    Raises InputChanged.
    """
    objects = BatchObjects(record.id)
    check_input(context, record.manifest)

    def put_if_gone(numbered: tuple[int, Shard]) -> bool:
        number, shard = numbered
        if not (over and number == index) and context.artifacts.head(objects.shard(number)) is not None:
            return False
        context.artifacts.put(objects.shard(number), shard_bytes(shard), content_type="application/x-ndjson")
        return True

    written = list(in_order(put_if_gone, enumerate(shards_of(context, record)), at_a_time=AT_A_TIME))
    if index >= len(written) or record.jobs not in (None, len(written)):
        raise InputChanged(f"its rows give {len(written)} shards now, and gave {record.jobs} before")
    return sum(written)


def fail_batch(context: Context, batch_id: str, reason: str) -> None:
    """Have a batch that can never go on end as failed: its jobs are cancelled, and what is committed stays.

    One that ends anyway, or is being cancelled, is left to that. Raises UnknownBatch.
    """

    def failing(record: BatchRecord) -> BatchRecord | None:
        if is_final(record.state) or record.state in (BatchState.CANCELLING, BatchState.FINALIZING):
            return None
        return advance(record, BatchState.CANCELLING, at=context.ledger.now(), reason=reason)

    if context.ledger.batches.update(batch_id, failing).written:
        log.error("batch will fail", batch=batch_id, reason=reason)


def shards_of(context: Context, record: BatchRecord) -> Iterator[Shard]:
    """The shards of a batch, as its plan cuts them. Raises InputChanged or RecordUnreadable."""
    images, pace = record.images_per_job or context.settings.images_per_job, record.pace
    bounds = Bounds(images, pace.job_seconds, pace.seconds) if pace is not None else Bounds(images)
    json_of: dict[int, bytes] = {}  # the rows that are being cut, as they were staged
    return cut(_rows(context, record.manifest, json_of), bounds, lambda row: json_of.pop(row.row))


def check_input(context: Context, manifest: BatchManifest) -> None:
    """Raise InputChanged if the rows in the bucket are not, or not all, those that were accepted."""
    key, digest = BatchObjects(manifest.id).input(manifest.staged), hashlib.sha256()
    for line in _lines(context, key):
        digest.update(line + b"\n")
    _compare(manifest, digest.hexdigest())


def _rows(context: Context, manifest: BatchManifest, json_of: dict[int, bytes]) -> Iterator[ResolvedRow]:
    """The rows as they were accepted; their JSON goes into `json_of`, by their number.

    Raises InputChanged, at their end ImagesDiffer; RecordUnreadable if another version must expand them.
    """
    key, digest = BatchObjects(manifest.id).input(manifest.staged), hashlib.sha256()
    unreadable: RecordUnreadable | None = None
    images = 0
    for line in _lines(context, key):
        digest.update(line + b"\n")
        if unreadable is None:
            try:
                row = read_record(ResolvedRow, line, what=key)
            except RecordTooNew:
                raise
            except RecordUnreadable as error:
                unreadable = error  # written by another version, or changed: the digest tells
            else:
                json_of[row.row] = line
                images += row.num_images
                yield row
    _compare(manifest, digest.hexdigest())
    if unreadable is not None:
        message = f"{key} has a row that this version of Tessera cannot read: {unreadable.found} found"
        raise RecordUnreadable(key, unreadable.found, unreadable.wanted, message) from unreadable
    if images != manifest.images:
        said = f"{BatchObjects(manifest.id).manifest} says {manifest.images:,} images"
        raise ImagesDiffer(f"{said}, and the accepted rows give {images:,}")


def _lines(context: Context, key: str) -> Iterator[bytes]:
    """The accepted rows. Raises ObjectGone if they are not there, for they may be late; after a while InputChanged."""
    try:
        return context.artifacts.lines(key)
    except ObjectGone as error:
        if not context.ledger.locks.absent_for(key, LATE_S):
            raise
        raise InputChanged(f"{key} is not in {context.artifacts.where}") from error


def _compare(manifest: BatchManifest, digest: str) -> None:
    if digest == manifest.input_sha256:
        return
    key = BatchObjects(manifest.id).input(manifest.staged)
    raise InputChanged(f"{key} is not what was accepted: its digest differs from the one in batch.json")
