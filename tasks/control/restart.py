"""Put a batch into the ledger anew, so that it is rebuilt from the bucket and from what runs.

Used when ledger and bucket are apart, whichever is ahead: the bucket says which images there are. The batch gets a new
incarnation, so whoever works on it by the old record is refused; pods that run are adopted.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.broker import EXPAND, send_hint
from pipeline.records.batch import BatchManifest, BatchRecord, changed
from pipeline.records.end_marker import EndMarker
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.states import BatchState
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def withdraw_results(artifacts: Artifacts, objects: BatchObjects) -> None:
    """Remove what says that a batch has ended: first the markers, for a marker promises that the rest is complete."""
    for marker in MARKERS:
        artifacts.delete(objects.marker(marker))
    for key in (objects.results, objects.errors):
        artifacts.delete(key)


def restart(context: Context, record: BatchRecord, manifest: BatchManifest | None = None, **changes: Any) -> None:
    """Have the batch rebuilt, of this manifest if it is another than the record's. Raises StaleWrite.

    It stays paused, and cancelled or being cancelled, if it is by the record; a marker in the bucket outranks that.
    """
    after = _anew(record, manifest or record.manifest, context.ledger.now(), **changes)
    context.ledger.batches.restart(record, after)
    log.warning("batch is rebuilt from the bucket", batch=record.id, state=after.state.value, before=record.state.value)
    send_hint(context.app, EXPAND, record.id)


def fail_at_once(context: Context, record: BatchRecord, reason: str) -> None:
    """End a batch of which no step can be taken: its jobs go, and what is committed stays in the bucket.

    Raises StaleWrite.
    """
    now = context.ledger.now()
    after = _anew(record, record.manifest, now, state=BatchState.FAILED, reason=reason, wait=None)
    context.ledger.batches.restart(record, after)
    marker, objects = EndMarker(state=BatchState.FAILED, reason=reason), BatchObjects(record.id)
    context.artifacts.put(objects.marker(BatchState.FAILED), marker.to_bytes(), content_type="application/json")
    context.ledger.batches.write(changed(after, at=now))  # needs no more work
    log.error("batch failed", batch=record.id, reason=reason, before=record.state.value)


def _anew(record: BatchRecord, manifest: BatchManifest, at: datetime, **changes: Any) -> BatchRecord:
    """The record of a batch of which nothing is done, of another incarnation."""
    return record.model_copy(
        update={
            "manifest": manifest.model_copy(update={"incarnation": secrets.token_hex(4)}),
            "state": state_after(record.state, record.reason),
            "revision": record.revision + 1,
            "updated_at": at,
            "recovered": True,
            "jobs": None,
            "reason": None,
            "repair": None,
            "reopen": None,
            **changes,
        }
    )


def state_after(state: BatchState | None, reason: str | None = None) -> BatchState:
    """The state of a batch that is rebuilt, by the state and the reason that it had, as far as they are known."""
    if state is BatchState.PAUSED:
        return BatchState.PAUSED
    cancelled = state in (BatchState.CANCELLING, BatchState.CANCELLED) and reason is None
    return BatchState.CANCELLING if cancelled else BatchState.VALIDATING
