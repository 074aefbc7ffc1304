"""Rows of a batch with an image that neither succeeded nor failed: it was cancelled, or is about to be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pipeline.bucket.fetch import fetch_manifest
from pipeline.errors import ObjectGone, RecordTooNew, RecordUnreadable, RequestError, UnknownBatch
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.records.schedules.row_digests import row_digest
from pipeline.schema import read_lines
from pipeline.states import BatchState, ImageState, is_final
from tasks.process.context import Context

_TRIED = {ImageState.SUCCEEDED, ImageState.FAILED}
_ROWS_AT_A_TIME = 1_000


def is_unfinished(context: Context, batch_id: str) -> bool:
    """Whether a batch has not ended, by the ledger or, if that has lost it, by the bucket."""
    try:
        return not is_final(context.ledger.batches.state(batch_id))
    except UnknownBatch:
        objects = BatchObjects(batch_id)
        there = context.artifacts.head(objects.manifest) is not None
        return there and not any(context.artifacts.head(objects.marker(state)) for state in MARKERS)


def unfinished_rows(context: Context, batch_id: str) -> Iterator[bytes]:
    """Digests of the rows of a batch that have an image which neither succeeded nor failed."""
    objects = BatchObjects(batch_id)
    if (manifest := _manifest(context, objects)) is None:
        return  # it was purged
    rows = _rows(context, objects.input(manifest.staged))
    if not context.ledger.batches.known(batch_id):
        # An emptied ledger knows no images: count all rows of a batch that did not end, and none of one that completed.
        if context.artifacts.head(objects.marker(BatchState.COMPLETED)) is None:
            yield from map(row_digest, rows)
        return
    images = context.ledger.batches.counts(batch_id).images
    if sum(images[state] for state in _TRIED) == sum(images.values()):
        return
    while some := list(islice(rows, _ROWS_AT_A_TIME)):
        first, last = some[0], some[-1]
        states = context.ledger.images.states(batch_id, range(first.first_image, last.first_image + last.num_images))
        for row in some:
            start = row.first_image - first.first_image
            if not _TRIED.issuperset(states[start : start + row.num_images]):
                yield row_digest(row)


def _manifest(context: Context, objects: BatchObjects) -> BatchManifest | None:
    """The batch as it was accepted; by the ledger if only its object is gone. Raises RequestError."""
    try:
        manifest = fetch_manifest(context.artifacts, objects.batch_id)
        if manifest is None:
            kept = context.ledger.batches.get(objects.batch_id).manifest
            manifest = kept if kept.purge is None else None
    except UnknownBatch:
        return None
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        raise RequestError(str(error)) from error
    return manifest


def _rows(context: Context, key: str) -> Iterator[ResolvedRow]:
    try:
        yield from read_lines(ResolvedRow, context.artifacts.lines(key), what=key)
    except ObjectGone as error:
        raise RequestError(f"{error}, so that nobody knows which rows were left") from error
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        raise RequestError(f"{key} has a line that is no row of this version: {error.found} found") from error
