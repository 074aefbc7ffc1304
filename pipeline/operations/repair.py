"""Request that a batch is brought in line with the bucket: a mark in its record, which the controller looks at.

What the controller does about it is in tasks/control/reconcile.py; what it finds, `verify` shows.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_manifest
from pipeline.errors import RecordTooNew, RecordUnreadable, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.process.parallel import in_order
from pipeline.records.batch import BatchRecord, Repair, changed
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.states import BatchState, is_final

log = structlog.get_logger(__name__)

_BATCHES_AT_A_TIME = 16
_ALL = 10_000_000


def request_repair(ledger: Ledger, artifacts: Artifacts, batch_id: str, repair: Repair) -> None:
    """Have the controller bring a batch in line with the bucket, as far as `repair` looks into it.

    One that Redis does not know is put there: as accepted, or as purged. Raises UnknownBatch, RecordTooNew, and
    RecordUnreadable of a batch.json.
    """

    def marked(record: BatchRecord) -> BatchRecord | None:
        return None if record.repair in (repair, Repair.FILES) else changed(record, at=ledger.now(), repair=repair)

    try:
        ledger.batches.update(batch_id, marked)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        # Whoever of the controller looks at it writes it again from the bucket.
        log.warning("the record of the batch is damaged", batch=batch_id, reason=str(error))
    except UnknownBatch:
        if (accepted := fetch_manifest(artifacts, batch_id)) is None:
            raise
        manifest = accepted.model_copy(update={"incarnation": secrets.token_hex(4)})
        purged = manifest.purge is not None
        state = BatchState.CANCELLED if purged else BatchState.VALIDATING
        ledger.batches.create(
            BatchRecord(manifest=manifest, state=state, updated_at=ledger.now(), recovered=not purged)
        )


def apart(ledger: Ledger, artifacts: Artifacts) -> Iterator[str]:
    """Batches that Redis knows and about whose end the bucket says something else, by a request or a few for each."""

    def differs(batch_id: str) -> str | None:
        try:
            record = ledger.batches.get(batch_id)
        except (UnknownBatch, RecordUnreadable):  # removed since, or another version's
            return None
        objects, state = BatchObjects(batch_id), record.state
        if record.manifest.purge is not None:
            return None
        if artifacts.head(objects.manifest) is None:
            return batch_id
        if is_final(state):
            return None if artifacts.head(objects.marker(state)) is not None else batch_id
        over = state in (BatchState.IN_PROGRESS, BatchState.PAUSED)
        return batch_id if over and any(artifacts.head(objects.marker(end)) for end in MARKERS) else None

    return (found for found in in_order(differs, ledger.batches.newest(_ALL), at_a_time=_BATCHES_AT_A_TIME) if found)
