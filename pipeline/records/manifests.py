"""The one reader of `batch.json`."""

from __future__ import annotations

from pipeline.errors import RecordForeign
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects
from pipeline.schema import read_record


def read_manifest(body: bytes, batch_id: str) -> BatchManifest:
    """The batch as it was accepted, from the `batch.json` of this id.

    Raises RecordUnreadable, also for that of another batch: it would be put into the ledger under its own id.
    """
    key = BatchObjects(batch_id).manifest
    manifest = read_record(BatchManifest, body, what=key)
    if manifest.id != batch_id:
        raise RecordForeign(key, "the record of another batch", BatchManifest.__name__)
    return manifest
