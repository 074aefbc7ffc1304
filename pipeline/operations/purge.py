"""Request that a batch that has ended is removed from the ledger and the bucket.

The client only records the request, as with a retry; the controller removes (tasks/control/purge.py). The request
stands in the ledger's record, so that nobody retries the batch, and in `batch.json`, so that neither a resume nor a
submission under its id brings back half of it.
"""

from __future__ import annotations

import secrets
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import BatchLost, RecordUnreadable, RequestError, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.ledger.update import update
from pipeline.names import checked_batch_id
from pipeline.records.batch import BatchManifest, BatchRecord, Purge, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.schema import read_record
from pipeline.states import BatchState, is_final


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

    mark_purged(artifacts, update(read, purged, ledger.batches.write).record.manifest)


class Owner(StrEnum):
    """Whose `batch.json` lies under a batch's id."""

    THIS_BATCH = "this_batch"
    NOBODY = "nobody"  # it is gone
    ANOTHER_BATCH = "another_batch"  # of the same id, accepted since


class _Staged(BaseModel):
    """All that is read of a `batch.json` that is damaged, or that a later version wrote."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    staged: str


def mark_purged(artifacts: Artifacts, manifest: BatchManifest) -> Owner:
    """Mark the batch as purged in `batch.json`, if that is its own; one that cannot be read is written anew."""
    key = BatchObjects(manifest.id).manifest
    body = artifacts.get(key)
    if body is None:
        return Owner.NOBODY
    there: BatchManifest | None = None
    try:
        there = read_record(BatchManifest, body, what=key)
        staged: str | None = there.staged
    except RecordUnreadable:
        try:
            staged = read_record(_Staged, body, what=key).staged
        except RecordUnreadable:
            staged = None  # nobody can take it for a batch
    if staged not in (None, manifest.staged):
        return Owner.ANOTHER_BATCH
    if there is None or there.purge is not manifest.purge:
        purged = (there or manifest).model_copy(update={"purge": manifest.purge})
        artifacts.put(key, purged.model_dump_json().encode(), content_type="application/json")
    return Owner.THIS_BATCH


def is_purged(artifacts: Artifacts, batch_id: str) -> bool:
    """Whether the bucket only has the rest of a purged batch under this id. Raises RequestError."""
    key = BatchObjects(checked_batch_id(batch_id)).manifest
    body = artifacts.get(key)
    return body is not None and read_record(BatchManifest, body, what=key).purge is not None


def _restore_record(ledger: Ledger, artifacts: Artifacts, batch_id: str) -> BatchRecord:
    """Put a purged batch back into the ledger, so that what is left of it in the bucket can be removed."""
    key = BatchObjects(checked_batch_id(batch_id)).manifest
    body = artifacts.get(key)
    if body is None:
        raise UnknownBatch(batch_id)
    manifest = read_record(BatchManifest, body, what=key)
    if manifest.purge is None:
        raise BatchLost(batch_id)
    again = manifest.model_copy(update={"incarnation": secrets.token_hex(4)})
    record = BatchRecord(manifest=again, state=BatchState.CANCELLED, updated_at=ledger.now())
    return record if ledger.batches.create(record) else ledger.batches.get(batch_id)
