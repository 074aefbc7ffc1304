"""Remove batches for good: those that a user purges, and those that are past the deployment's retention.

`batch.json` is removed last, and says until then that the batch is being purged. So if a controller is killed, the next
tick goes on, and nobody takes what is left for a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.operations.purge import mark_purged, request_purge
from pipeline.records.batch import Purge
from pipeline.records.object_keys import MARKERS, BatchObjects
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# A batch of a million images must not block a controller: the next tick goes on with the rest.
AT_ONCE = 50_000
_A_REQUEST = 1_000  # what S3 takes


def purge(context: Context, batch_id: str) -> None:
    """Remove the objects of a batch, or some of them if there are many."""
    with context.ledger.locks.only_one(f"purge-{batch_id}") as mine:
        record = context.ledger.batches.get(batch_id)
        wanted = record.manifest.purge
        if not mine or wanted is None:
            return
        objects = BatchObjects(batch_id)
        if mark_purged(context.artifacts, record.manifest):
            removed = _remove(context.artifacts, objects, wanted)
            if removed >= AT_ONCE:
                log.info("part of a batch removed", batch=batch_id, objects=removed)
                return
            if wanted is Purge.EVERYTHING:
                context.artifacts.delete(objects.manifest)
        context.ledger.batches.remove(record)
        log.info("batch removed", batch=batch_id, kept=wanted is Purge.KEEP_IMAGES)


def purge_expired(context: Context) -> None:
    """Request the purge of every batch that ended longer ago than the deployment keeps batches."""
    days = context.settings.retention_days
    if days is None:
        return
    for record in context.ledger.batches.ended_before(context.ledger.now() - timedelta(days=days)):
        if record.manifest.purge is None:
            log.info("batch is past its retention", batch=record.id, days=days)
            request_purge(context.ledger, context.artifacts, record.id, Purge.EVERYTHING)


def _remove(artifacts: Artifacts, objects: BatchObjects, wanted: Purge) -> int:
    """Remove up to AT_ONCE objects, first those that say the batch is complete; returns how many."""
    keys = itertools.islice(_keys_to_remove(artifacts, objects, wanted), AT_ONCE)
    removed = 0
    while some := list(itertools.islice(keys, _A_REQUEST)):
        artifacts.delete_all(some)
        removed += len(some)
    return removed


def _keys_to_remove(artifacts: Artifacts, objects: BatchObjects, wanted: Purge) -> Iterator[str]:
    kept = [objects.manifest]
    if wanted is Purge.KEEP_IMAGES:
        kept += objects.user_files
    first = [objects.marker(state) for state in MARKERS]
    first += [key for key in (objects.results, objects.errors) if key not in kept]
    yield from (key for key in first if artifacts.head(key) is not None)
    yield from (key for key in artifacts.list(objects.root) if key not in first and not key.startswith(tuple(kept)))
