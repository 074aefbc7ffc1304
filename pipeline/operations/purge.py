"""Request that a batch that has ended is removed from the ledger and the bucket.

The client only records the request, as with a retry; the controller removes (tasks/control/purge.py). The request
stands in the ledger's record, so that nobody retries the batch, and in `batch.json`, so that neither a resume nor a
submission under its id brings back half of it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import datetime
from enum import StrEnum

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch, fetch_manifest
from pipeline.errors import BatchLost, RecordForeign, RecordTooNew, RecordUnreadable, RequestError, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.ledger.update import update
from pipeline.names import checked_batch_id
from pipeline.records.batch import PRIORITIES, BatchManifest, BatchRecord, Purge, changed
from pipeline.records.manifests import read_manifest
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, is_final
from pipeline.stored import Record
from pipeline.version import installed_version


def may_be_purged(state: BatchState) -> bool:
    """Whether a batch in this state may be purged: one that is being cancelled goes as soon as its jobs have ended."""
    return is_final(state) or state is BatchState.CANCELLING


def request_purge(ledger: Ledger, artifacts: Artifacts, batch_id: str, purge: Purge) -> None:
    """Record that the batch is to be removed. It must have ended, or be about to, as one that is being cancelled.

    Raises RequestError, UnknownBatch, BatchLost.
    """

    def read() -> BatchRecord:
        try:
            return ledger.batches.get(batch_id)
        except UnknownBatch:
            return _restore_record(ledger, artifacts, batch_id)

    def purged(record: BatchRecord) -> BatchRecord | None:
        if not may_be_purged(record.state):
            wait = f"wait for its end (`tessera watch {batch_id}`) or cancel it first"
            raise RequestError(f"batch {batch_id} is {record.state.value}; a batch that has ended wanted: {wait}")
        if record.manifest.purge is purge:
            return None
        return changed(record, at=ledger.now(), manifest=record.manifest.model_copy(update={"purge": purge}))

    try:
        manifest = update(read, purged, ledger.batches.write).record.manifest
    except RecordTooNew:
        raise
    except RecordUnreadable:
        _purge_unread(ledger, artifacts, batch_id, purge)
    else:
        mark_purged(artifacts, manifest)


def _purge_unread(ledger: Ledger, artifacts: Artifacts, batch_id: str, purge: Purge) -> None:
    """Say in `batch.json` that a batch is purged whose record is damaged; the controller writes that again by it.

    If `batch.json` is damaged or gone as well, all that it says afterwards is that what lies there goes.
    """
    key = BatchObjects(checked_batch_id(batch_id)).manifest
    known = ledger.batches.known(batch_id)
    state = _state(ledger, batch_id)
    if state is not None and not may_be_purged(state):
        raise RequestError(f"batch {batch_id} is {state.value}; a batch that has ended wanted: cancel it first")
    there = artifacts.get_tagged(key)
    manifest = _nobodys(batch_id, ledger.now())
    if there is not None:
        try:
            manifest = read_manifest(there.body, batch_id)
        except RecordTooNew:
            raise
        except RecordUnreadable:
            pass
    body = manifest.model_copy(update={"purge": purge}).model_dump_json().encode()
    if not artifacts.put_new(key, body, content_type="application/json", over=there.etag if there else None):
        raise RequestError(f"batch {batch_id} was accepted at this moment; ask again")
    if not known:
        _restore_record(ledger, artifacts, batch_id)


def _state(ledger: Ledger, batch_id: str) -> BatchState | None:
    try:
        return ledger.batches.state(batch_id)
    except (UnknownBatch, RecordUnreadable):
        return None


def _nobodys(batch_id: str, now: datetime) -> BatchManifest:
    """In the place of a `batch.json` of which nothing is known."""
    return BatchManifest(
        id=batch_id,
        incarnation=secrets.token_hex(4),
        tenant="default",
        priority=PRIORITIES[-1],
        created_at=now,
        rows=0,
        images=0,
        seed=0,
        staged="unknown",
        input_sha256="",
        defaults={},
        client_version=installed_version(),
    )


class Owner(StrEnum):
    """Whose `batch.json` lies under a batch's id."""

    THIS_BATCH = "this_batch"
    NOBODY = "nobody"  # it is gone
    ANOTHER_BATCH = "another_batch"  # of the same id, accepted since


class _Staged(Record):
    """All that is read of a `batch.json` that is damaged, or that a later version wrote."""

    staged: str


def mark_purged(artifacts: Artifacts, manifest: BatchManifest) -> Owner:
    """Mark the batch as purged in `batch.json`, if that is its own; one that cannot be read is written anew."""
    key = BatchObjects(manifest.id).manifest
    there: BatchManifest | None = None
    staged: str | None = None  # nobody can take it for this batch, or for a batch at all
    try:
        if (there := fetch_manifest(artifacts, manifest.id)) is None:
            return Owner.NOBODY
        staged = there.staged
    except RecordForeign:
        pass
    except RecordUnreadable:
        with suppress(RecordUnreadable):
            staged = known.staged if (known := fetch(_Staged, artifacts, key)) is not None else None
    if staged not in (None, manifest.staged):
        return Owner.ANOTHER_BATCH
    if there is None or there.purge is not manifest.purge:
        purged = (there or manifest).model_copy(update={"purge": manifest.purge})
        artifacts.put(key, purged.model_dump_json().encode(), content_type="application/json")
    return Owner.THIS_BATCH


def is_purged(artifacts: Artifacts, batch_id: str) -> bool:
    """Whether the bucket only has the rest of a purged batch under this id. Raises RequestError."""
    manifest = fetch_manifest(artifacts, checked_batch_id(batch_id))
    return manifest is not None and manifest.purge is not None


def _restore_record(ledger: Ledger, artifacts: Artifacts, batch_id: str) -> BatchRecord:
    """Put a purged batch back into the ledger, so that what is left of it in the bucket can be removed."""
    manifest = fetch_manifest(artifacts, checked_batch_id(batch_id))
    if manifest is None:
        raise UnknownBatch(batch_id)
    if manifest.purge is None:
        raise BatchLost(batch_id)
    again = manifest.model_copy(update={"incarnation": secrets.token_hex(4)})
    record = BatchRecord(manifest=again, state=BatchState.CANCELLED, updated_at=ledger.now())
    return record if ledger.batches.create(record) else ledger.batches.get(batch_id)
