"""Remove batches for good: those that a user purges, and those that are past the deployment's retention.

`batch.json` is removed last, and says until then that the batch is being purged. So if a controller is killed, the next
tick goes on, and nobody takes what is left for a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_lines
from pipeline.deployment.broker import CANCEL, send_hint
from pipeline.errors import RecordUnreadable
from pipeline.operations.purge import Owner, mark_purged, request_purge
from pipeline.operations.webhooks import endpoints
from pipeline.process.parallel import in_order
from pipeline.records.batch import BatchRecord, Purge
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.records.shards import images_of, parsed_shard
from pipeline.states import is_final
from tasks.control.webhook_events import hand_over_last
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# A batch of a million images must not block a controller: the next tick goes on with the rest.
AT_ONCE = 50_000
_A_REQUEST = 1_000  # what S3 takes
# The objects of so small a batch are asked for by their keys, too. A larger one takes longer than a list is late.
_NAMED_IMAGES = 2_000
AT_A_TIME = 16  # objects that are asked for
# Work on the batch as a whole that would put back what is removed.
_EXCLUDED = ("purge", "finalize", "expand", "reopen")


def purge(context: Context, batch_id: str) -> None:
    """Remove the objects of a batch, or some if there are many. If it is being cancelled, its jobs end first."""
    with ExitStack() as locks:
        if not all(locks.enter_context(context.ledger.locks.only_one(f"{work}-{batch_id}")) for work in _EXCLUDED):
            return  # the next tick asks again
        record = context.ledger.batches.get(batch_id)
        wanted = record.manifest.purge
        if wanted is None:
            return
        if not is_final(record.state) and context.ledger.jobs.any_unfinished(batch_id):
            send_hint(context.app, CANCEL, batch_id)  # a pod that may still commit would put back what is removed
            return
        objects = BatchObjects(batch_id)
        whose = mark_purged(context.artifacts, record.manifest)
        if whose is not Owner.ANOTHER_BATCH:
            removed = _remove(context.artifacts, record, wanted, alone=whose is Owner.THIS_BATCH)
            if removed >= AT_ONCE:
                log.info("part of a batch removed", batch=batch_id, objects=removed)
                return
            if wanted is Purge.EVERYTHING:
                context.artifacts.delete(objects.manifest)
        with suppress(RecordUnreadable):  # nobody knows what happened to it
            hand_over_last(context, record)
        for endpoint in endpoints(context.ledger, batch_id=batch_id):
            context.ledger.webhooks.remove_endpoint(endpoint.id)
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


def _remove(artifacts: Artifacts, record: BatchRecord, wanted: Purge, *, alone: bool) -> int:
    """Remove up to AT_ONCE objects, first those that say the batch is complete; returns how many."""
    keys = itertools.islice(_keys_to_remove(artifacts, record, wanted, alone=alone), AT_ONCE)
    removed = 0
    while some := list(itertools.islice(keys, _A_REQUEST)):
        artifacts.delete_all(some)
        removed += len(some)
    return removed


def _keys_to_remove(artifacts: Artifacts, record: BatchRecord, wanted: Purge, *, alone: bool) -> Iterator[str]:
    """Keys in an order in which nothing half removed is taken for whole.

    Shards go last, for they name what a late list does not show. If `batch.json` is gone (not `alone`), what others may
    be staging under the same id is left.
    """
    objects = BatchObjects(record.id)
    kept = [objects.manifest]
    if wanted is Purge.KEEP_IMAGES:
        kept += objects.user_files
    first = [objects.marker(state) for state in MARKERS]
    first += [key for key in (objects.results, objects.errors) if key not in kept]
    yield from (key for key in first if artifacts.head(key) is not None)

    def goes(key: str) -> bool:
        others = key.startswith(objects.staged) and not key.startswith(f"{objects.staged}{record.manifest.staged}/")
        return key not in first and not key.startswith(tuple(kept)) and (alone or not others)

    yield from (key for key in artifacts.list(objects.root) if goes(key) and not key.startswith(objects.shards))
    if record.manifest.images <= _NAMED_IMAGES:
        named = (key for key in _named(artifacts, record) if goes(key))
        yield from (found.key for found in in_order(artifacts.head, named, at_a_time=AT_A_TIME) if found is not None)
    yield from artifacts.list(objects.shards)
    yield from (key for key in map(objects.shard, range(record.jobs or 0)) if artifacts.head(key) is not None)


def _named(artifacts: Artifacts, record: BatchRecord) -> Iterator[str]:
    """Keys that follow from the shards, whether anything is there or not."""
    objects = BatchObjects(record.id)
    for index in range(record.jobs or 0):
        yield objects.fragment(index)
        for line in fetch_lines(artifacts, objects.shard(index)) or ():
            try:
                tasks = images_of(parsed_shard(line))
            except RecordUnreadable:
                continue  # it names nothing; what a list shows is removed all the same
            for task in tasks:
                yield task.key(objects)
                yield from (
                    key_of(task.row.row, task.number)
                    for key_of in (objects.sidecar, objects.thumbnail, objects.failure)
                )
