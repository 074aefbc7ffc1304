"""Bring a batch in the ledger in line with the bucket, whichever of them was lost, rolled back or damaged.

What is wrong is found as `tessera verify` finds it (pipeline/operations/verify.py). Then as little as possible is done:
a shard is cut again, a purge finished; and whatever ledger and bucket differ about is settled by rebuilding the batch
from the bucket (tasks/control/restart.py), which renders again what is missing. Doing it twice changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum

import structlog

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.bucket.fetch import fetch_manifest
from pipeline.bucket.imagefile import record_in
from pipeline.deployment.broker import EXPAND, PURGE, send_hint
from pipeline.errors import RecordTooNew, RecordUnreadable, UnknownBatch
from pipeline.operations.discrepancies import DiscrepancyKind
from pipeline.operations.purge import request_purge
from pipeline.operations.resume import recover_batch
from pipeline.operations.verify import verify
from pipeline.records.batch import BatchManifest, BatchRecord, Repair, changed
from pipeline.records.manifests import read_manifest
from pipeline.records.object_keys import SUFFIXES, BatchObjects
from pipeline.states import BatchState, is_final
from tasks.control.restart import restart, state_after, withdraw_results
from tasks.jobs.shards import InputChanged, ShardLost, check_input, rebuild_shard
from tasks.process.context import Context

log = structlog.get_logger(__name__)


Found = Mapping[DiscrepancyKind, Sequence[str]]  # what is wrong, by kind: keys of objects, names


class Reconciled(StrEnum):
    """What became of a batch."""

    BUSY = "busy"  # another process is at it, or at work on this batch as a whole; asked again later
    UNKNOWN = "unknown"  # neither ledger nor bucket knows it
    AGREES = "agrees"  # they agree, perhaps after a shard or batch.json was written again
    UNREADABLE = "unreadable"  # something of it is for another version; it is left as it is
    REBUILT = "rebuilt"  # it is rebuilt from the bucket
    REMOVED = "removed"  # nothing of it was in the bucket, so the ledger does not know it any more
    PURGED = "purged"  # its purge goes on


_K = DiscrepancyKind
_REBUILD = frozenset(
    {
        *(_K.UNKNOWN_TO_REDIS, _K.ANOTHER_BATCH, _K.STATE_DIFFERS, _K.JOBS_DIFFER, _K.IMAGE_STATES_DIFFER),
        *(_K.COUNTS_DIFFER, _K.MARKER_GONE, _K.MARKER_DIFFERS, _K.RESULTS_DIFFER, _K.FRAGMENT_DIFFERS),
        *(_K.OUTCOME_MISSING, _K.IMAGE_GONE, _K.IMAGE_DAMAGED),
    }
)
# With only these, the results in the bucket are right, and the ledger is not.
_LEDGER_ONLY = frozenset(
    {
        *(_K.UNKNOWN_TO_REDIS, _K.ANOTHER_BATCH, _K.STATE_DIFFERS, _K.JOBS_DIFFER),
        *(_K.IMAGE_STATES_DIFFER, _K.COUNTS_DIFFER),
    }
)


def reconcile(context: Context, batch_id: str) -> Reconciled:
    """Compare a batch in ledger and bucket, and mend what differs. Raises ServiceError or ConflictError: do it again.

    Nothing else of the controller works on the batch as a whole meanwhile. Its jobs may go on: if it has to be rebuilt,
    their workers are refused and their pods adopted.
    """
    with ExitStack() as locks:
        for work in ("reconcile", "expand", "reopen", "finalize", "purge"):
            if not locks.enter_context(context.ledger.locks.only_one(f"{work}-{batch_id}")):
                return Reconciled.BUSY
        return _reconcile(context, batch_id)


def _reconcile(context: Context, batch_id: str) -> Reconciled:
    record = None
    try:
        record = _record(context, batch_id)
        if record is not None:
            context.ledger.batches.check(batch_id, waiting=True)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        return _write_record_again(context, batch_id, record, str(error))
    deep = record is not None and record.repair is Repair.FILES
    found: dict[DiscrepancyKind, list[str]] = {}

    def note(kind: DiscrepancyKind, what: str) -> None:
        found.setdefault(kind, []).append(what)

    try:
        verify(context.ledger, context.artifacts, batch_id, deep=deep, on_discrepancy=note)
    except UnknownBatch:
        return Reconciled.UNKNOWN
    done = _mend(context, batch_id, _record(context, batch_id), found)
    log.info("batch reconciled", batch=batch_id, result=done.value, found={k.value: len(v) for k, v in found.items()})
    return done


def _record(context: Context, batch_id: str) -> BatchRecord | None:
    try:
        return context.ledger.batches.get(batch_id)
    except UnknownBatch:
        return None


def _write_record_again(context: Context, batch_id: str, readable: BatchRecord | None, reason: str) -> Reconciled:
    """Put a batch whose record, or what is kept beside it, is damaged into the ledger anew.

    As the bucket has it; a record that is `readable` says also what has become of the batch since it was accepted.
    """
    objects, batches = BatchObjects(batch_id), context.ledger.batches
    if (damaged := batches.damaged(batch_id)) is None:
        return Reconciled.UNKNOWN
    if readable is not None and readable.manifest.purge is None and damaged.is_of(readable):
        log.error("what is kept of a batch is damaged", batch=batch_id, reason=reason)
        restart(context, readable)
        return Reconciled.REBUILT
    try:
        manifest = fetch_manifest(context.artifacts, batch_id)
    except RecordUnreadable as error:
        log.error("neither ledger nor bucket can be read: purge it", batch=batch_id, reason=reason, bucket=str(error))
        return Reconciled.UNREADABLE
    if manifest is None and next(context.artifacts.list(objects.root), None) is None:
        _delete_attempts(context, batch_id)
        batches.remove(damaged)
        return Reconciled.REMOVED
    if manifest is None:
        log.error("neither ledger nor bucket can be read: purge it", batch=batch_id, reason=reason, bucket="nothing")
        return Reconciled.UNREADABLE
    purged = manifest.purge is not None
    record = BatchRecord(
        manifest=manifest.model_copy(update={"incarnation": secrets.token_hex(4)}),
        state=BatchState.CANCELLED if purged else state_after(damaged.state),
        revision=damaged.revision + 1,
        updated_at=context.ledger.now(),
        recovered=not purged,
    )
    if purged:
        _delete_attempts(context, batch_id)
    batches.restart(damaged, record)
    log.error("the record of a batch is written again", batch=batch_id, reason=reason, state=record.state.value)
    send_hint(context.app, PURGE if purged else EXPAND, batch_id)
    return Reconciled.PURGED if purged else Reconciled.REBUILT


def _mend(context: Context, batch_id: str, record: BatchRecord | None, found: Found) -> Reconciled:
    artifacts = context.artifacts
    if _K.UNREADABLE in found:
        return _answered(context, record, Reconciled.UNREADABLE)
    if _K.GONE_FROM_BUCKET in found and record is not None:
        _delete_attempts(context, batch_id)
        context.ledger.batches.remove(record)
        return Reconciled.REMOVED
    if _K.MANIFEST_GONE in found and record is not None:
        _write_manifest_again(artifacts, record.manifest)
    if (manifest := fetch_manifest(artifacts, batch_id)) is None:
        return _answered(context, record, Reconciled.AGREES)  # it is being removed
    if manifest.purge is not None:
        return _finish_purge(context, record, manifest, found)
    _mend_sidecars(artifacts, found.get(_K.SIDECAR_DIFFERS, ()))
    if _REBUILD.isdisjoint(found):
        _mend_shards(context, record, manifest, found.get(_K.SHARD_GONE, ()))
        return _answered(context, record, Reconciled.AGREES)
    is_wrong = not _LEDGER_ONLY.issuperset(_REBUILD.intersection(found))
    if record is None:
        if is_wrong:
            _withdraw(context, manifest, found)
        recover_batch(context.ledger, manifest)
        send_hint(context.app, EXPAND, batch_id)
        return Reconciled.REBUILT
    # The ledger first, so that what reads as ended has its results. The mark says that they are still to be withdrawn.
    repair = (record.repair or Repair.OBJECTS) if is_wrong else None
    restart(context, record, manifest if _K.ANOTHER_BATCH in found else None, repair=repair)
    if is_wrong:
        _withdraw(context, manifest, found)
        _answered(context, _record(context, batch_id), Reconciled.REBUILT)
        send_hint(context.app, EXPAND, batch_id)
    return Reconciled.REBUILT


def _write_manifest_again(artifacts: Artifacts, manifest: BatchManifest) -> None:
    """Put `batch.json` where there is none that can be read. Raises RecordTooNew."""
    key = BatchObjects(manifest.id).manifest
    there = artifacts.get_tagged(key)
    if there is not None:
        try:
            read_manifest(there.body, manifest.id)
        except RecordTooNew:
            raise
        except RecordUnreadable as error:
            log.error("batch.json is written again", batch=manifest.id, reason=str(error))
        else:
            return  # it was written meanwhile
    text, over = manifest.model_dump_json().encode(), there.etag if there is not None else None
    artifacts.put_new(key, text, content_type="application/json", over=over)


def _withdraw(context: Context, manifest: BatchManifest, found: Found) -> None:
    """Remove the results of a batch, and what is wrong below them and can be had again."""
    if _has_rows(context, manifest):  # without them fragments are all that is known of their images
        for kind in (_K.FRAGMENT_DIFFERS, _K.IMAGE_DAMAGED):
            for key in found.get(kind, ()):
                context.artifacts.delete(key)
    withdraw_results(context.artifacts, BatchObjects(manifest.id))


def _answered(context: Context, looked: BatchRecord | None, done: Reconciled) -> Reconciled:
    """Nobody has to look again at the batch as it was `looked` at. Returns `done`."""
    if looked is not None and looked.repair is not None:

        def answered(record: BatchRecord) -> BatchRecord | None:
            is_same = record.repair is looked.repair  # else somebody asked for more meanwhile
            return changed(record, at=context.ledger.now(), repair=None) if is_same else None

        context.ledger.batches.update(looked.id, answered)
    return done


def _finish_purge(
    context: Context,
    record: BatchRecord | None,
    manifest: BatchManifest,
    found: Found,
) -> Reconciled:
    """Have what is left of a purged batch removed: the bucket says that it is purged, and how."""
    if _K.PURGE_UNFINISHED not in found or manifest.purge is None:
        return _answered(context, record, Reconciled.AGREES)
    if record is None:
        request_purge(context.ledger, context.artifacts, manifest.id, manifest.purge)
    else:
        _delete_attempts(context, manifest.id)
        restart(context, record, manifest, state=BatchState.CANCELLED)
    send_hint(context.app, PURGE, manifest.id)
    return Reconciled.PURGED


def _delete_attempts(context: Context, batch_id: str) -> None:
    """End what runs of a batch that there will be no more: as orphans of an unknown batch they would be kept."""
    for name, seen in context.launcher.observe().items():
        if seen.batch_id == batch_id:
            log.warning("deleting an attempt of a purged batch", batch=batch_id, name=name)
            context.launcher.delete(name)


def _has_rows(context: Context, manifest: BatchManifest) -> bool:
    try:
        check_input(context, manifest)
    except InputChanged as error:
        log.error("the rows of a batch are gone", batch=manifest.id, reason=str(error))
        return False
    return True


def _mend_shards(context: Context, record: BatchRecord | None, manifest: BatchManifest, gone: Sequence[str]) -> None:
    """Have shards that are gone or damaged cut again; a batch under way whose rows are gone fails by that."""
    if not gone or record is None or (is_final(record.state) and not _has_rows(context, manifest)):
        return
    try:
        for key in gone:
            if context.artifacts.head(key) is not None and _has_rows(context, manifest):
                context.artifacts.delete(key)  # it cannot be read
        for key in gone:
            rebuild_shard(context, manifest.id, int(key.rpartition("/")[2].partition(".")[0]))
    except ShardLost as error:
        log.error("shards cannot be cut again", batch=manifest.id, reason=str(error))


def _mend_sidecars(artifacts: Artifacts, sidecars: Sequence[str]) -> None:
    """Write sidecars again from what the files of their images say; where those say nothing, nothing is changed."""
    for sidecar in sidecars:
        for suffix in SUFFIXES.values():
            body = artifacts.get(f"{sidecar.rpartition('.')[0]}.{suffix}")
            if body is not None and (record := record_in(body)) is not None:
                result = record.model_copy(update={"sha256": sha256(body), "size_bytes": len(body)})
                artifacts.put(sidecar, result.model_dump_json().encode(), content_type="application/json")
