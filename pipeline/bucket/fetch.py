"""The one way to a record in the bucket: an object is fetched and read in one step, so that one error says both.

What is larger than any of its kind is as unreadable as what is damaged, and whoever handles the one handles the other.
"""

from __future__ import annotations

from typing import TypeVar

import structlog
from pydantic import BaseModel

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RecordUnreadable
from pipeline.records.batch import BatchManifest
from pipeline.records.end_marker import EndMarker, read_marker
from pipeline.records.manifests import read_manifest
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageOutcome, parsed_outcomes
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from pipeline.schema import read_record
from pipeline.states import BatchState

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)

UNREADABLE_LINE = b"{"


def fetch(kind: type[M], artifacts: Artifacts, key: str) -> M | None:
    """The record under a key; None if nothing is there. Raises RecordUnreadable, StoreUnavailable."""
    body = artifacts.get(key)
    return None if body is None else read_record(kind, body, what=key)


def fetch_manifest(artifacts: Artifacts, batch_id: str) -> BatchManifest | None:
    """The batch as it was accepted; None if there is no `batch.json`. Raises RecordUnreadable, StoreUnavailable."""
    body = artifacts.get(BatchObjects(batch_id).manifest)
    return None if body is None else read_manifest(body, batch_id)


def fetch_marker(artifacts: Artifacts, objects: BatchObjects, state: BatchState) -> EndMarker | None:
    """The marker of this end, a damaged one if it is none; None if it is not there. Raises RecordTooNew."""
    key = objects.marker(state)
    try:
        body = artifacts.get(key)
    except RecordUnreadable as error:
        log.warning("a marker is taken for a damaged one", reason=str(error))
        return EndMarker(state=state, damaged=True)
    return None if body is None else read_marker(body, state, what=key)


def fetch_shard(artifacts: Artifacts, key: str, *, patient: bool = True) -> list[ImageTask] | None:
    """The images that a shard names; None if it is not there. Raises RecordUnreadable, StoreUnavailable."""
    body = artifacts.get(key, patient=patient)
    return None if body is None else images_of(parsed_shard(body, key))


def fetch_outcomes(artifacts: Artifacts, objects: BatchObjects, job: int) -> list[ImageOutcome] | None:
    """What the fragment of a job says; None if it is not there. Raises RecordUnreadable, StoreUnavailable."""
    key = objects.fragment(job)
    body = artifacts.get(key)
    return None if body is None else list(parsed_outcomes(body.splitlines(), key, objects))


def fetch_lines(artifacts: Artifacts, key: str) -> list[bytes] | None:
    """The lines of a shard or a fragment, for whoever reads as many as can be; None if it is not there.

    Of one that is too large, a line that cannot be read. Raises StoreUnavailable.
    """
    try:
        body = artifacts.get(key)
    except RecordUnreadable as error:
        log.warning("lines are passed over", reason=str(error))
        return [UNREADABLE_LINE]
    return None if body is None else body.splitlines()
