"""Request that the failures of a batch that has ended are rendered again: the same batch is reopened.

What is committed stays, and no image of it can be rendered twice, because keys and seeds are the same. The client only
records the request; the controller reopens the jobs.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.outcomes import failures
from pipeline.errors import RequestError
from pipeline.ledger import Ledger
from pipeline.records.batch import BatchRecord, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, is_retried
from pipeline.states import REOPENED_BATCHES, BatchState


@dataclass(frozen=True)
class Retried:
    """How many images are rendered again, and the failures of the batch by code."""

    images: int
    failed: Mapping[str, int]


def request_retry(ledger: Ledger, artifacts: Artifacts, batch_id: str, codes: Sequence[str] = ()) -> Retried:
    """Reopen a batch that has ended, for its retryable failures or for those with these codes.

    Nothing happens if there are none. Raises UnknownBatch, and RequestError if the batch has not ended or a code is
    none.
    """
    _check_codes(codes)
    found = Retried(0, {})

    def reopened(record: BatchRecord) -> BatchRecord | None:
        nonlocal found
        _check_has_ended(record)
        found = list_failures(artifacts, batch_id, codes)
        if not found.images:
            return None
        return changed(
            record,
            at=ledger.now(),
            state=BatchState.VALIDATING,
            reopen=tuple(sorted(set(codes))),
            round=record.round + 1,
        )

    ledger.batches.update(batch_id, reopened)
    return found


def _check_codes(codes: Sequence[str]) -> None:
    known = [code.value for code in FailureCode]
    if unknown := next((code for code in codes if code not in known), None):
        near = difflib.get_close_matches(unknown.upper(), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise RequestError(f"code {unknown[:60]!r} found, which no failure has; {hint}")


def _check_has_ended(record: BatchRecord) -> None:
    if record.manifest.purge is not None:
        raise RequestError(f"batch {record.id} is being purged; submit its rows again under another id")
    if record.state is BatchState.FAILED:
        raise RequestError(f"batch {record.id} could not be run at all ({record.reason}); submit it again")
    if record.state not in REOPENED_BATCHES:
        wait = f"wait for its end (`tessera watch {record.id}`) or cancel it first"
        raise RequestError(f"batch {record.id} is {record.state.value}; a batch that has ended wanted: {wait}")


def list_failures(artifacts: Artifacts, batch_id: str, codes: Sequence[str]) -> Retried:
    """What a retry with these codes would render again."""
    failed: Counter[str] = Counter()
    images = 0
    for failure in failures(artifacts, BatchObjects(batch_id)):
        failed[failure.code.value] += 1
        images += is_retried(failure, codes)
    return Retried(images, dict(failed))
