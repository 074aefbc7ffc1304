"""Recover batches that are accepted in the bucket and that the ledger does not know.

Redis has lost them, or their client died between the two writes. Each gets a new incarnation, so that its names and
fences differ from those that an emptied Redis forgot. The controller finds out which of its images exist
(tasks/control/rebuild.py). Batches that the ledger knows are not changed, so this may be done at any time, repeatedly,
and by two processes at once.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_manifest
from pipeline.errors import BatchLost, RecordUnreadable, RequestError
from pipeline.ledger import Ledger
from pipeline.names import checked_batch_id
from pipeline.records.batch import BatchManifest, BatchRecord
from pipeline.records.object_keys import BATCHES, MARKERS, BatchObjects

log = structlog.get_logger(__name__)

_IDS_A_QUESTION = 1000


def unknown_batches(ledger: Ledger, artifacts: Artifacts, *, ended: bool) -> Iterator[BatchManifest]:
    """Accepted batches that the ledger does not know; those that have ended only if asked for. Raises ServiceError.

    A `batch.json` that cannot be read is left alone, with a line in the log.
    """
    for batch_id in _unknown(ledger, artifacts.folders(BATCHES)):
        try:
            manifest = fetch_manifest(artifacts, batch_id)
        except RecordUnreadable as error:
            log.error("a batch.json is left alone", batch=batch_id, reason=str(error))
            continue
        if manifest is None or manifest.purge is not None:
            continue  # staged and not accepted, or what is left of a purged one
        if ended or not has_ended(artifacts, batch_id):
            yield manifest


def has_ended(artifacts: Artifacts, batch_id: str) -> bool:
    """Whether the bucket says that a batch is over. Raises ServiceError."""
    objects = BatchObjects(batch_id)
    return any(artifacts.head(objects.marker(state)) is not None for state in MARKERS)


def _unknown(ledger: Ledger, batch_ids: Iterator[str]) -> Iterator[str]:
    """Those that the ledger does not know. If it knows all, the usual case, a thousand ids cost one request."""
    while some := list(itertools.islice(batch_ids, _IDS_A_QUESTION)):
        if not ledger.batches.known(*some):
            yield from (batch_id for batch_id in some if not ledger.batches.known(batch_id))


def recover_batch(ledger: Ledger, manifest: BatchManifest) -> bool:
    """Put such a batch into the ledger; False if another process did so first."""
    again = manifest.model_copy(update={"incarnation": secrets.token_hex(4)})
    created = ledger.batches.create(BatchRecord(manifest=again, updated_at=ledger.now(), recovered=True))
    if created:
        log.warning("recovered a batch that the ledger did not know", batch=manifest.id, images=manifest.images)
    return created


def check_lost(artifacts: Artifacts, batch_id: str) -> None:
    """Raise BatchLost if a batch that the ledger does not know is accepted in the bucket."""
    try:
        checked_batch_id(batch_id)
    except RequestError:
        return
    manifest = fetch_manifest(artifacts, batch_id)
    if manifest is not None and manifest.purge is None:
        raise BatchLost(batch_id)
