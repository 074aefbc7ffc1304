"""Remove what unfinished submissions left in the bucket: staged rows of no accepted batch, and incomplete uploads.

Those are parts of an object that was never put together, and files uploaded over HTTP whose record was never written.
Only what is older than a day is removed, by the store's clock. No submission takes that long, and each stages its rows
under a token of its own, so what is removed here cannot be accepted any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from pipeline.bucket.artifacts import PROBES, Artifacts
from pipeline.bucket.fetch import fetch_manifest
from pipeline.errors import RecordUnreadable
from pipeline.records.object_keys import BATCHES, BatchObjects
from pipeline.records.uploads import UPLOADS, is_file_id, upload_files, upload_records

log = structlog.get_logger(__name__)

AFTER = timedelta(days=1)


def clean_staged(artifacts: Artifacts, now: datetime) -> None:
    """Clean up after all batches."""
    before = now - AFTER
    removed = artifacts.abort_uploads(before) + _remove(artifacts, artifacts.older(PROBES, before))
    for tenant in artifacts.folders(UPLOADS):
        removed += _remove(artifacts, _without_record(artifacts, tenant, before))
    for batch_id in artifacts.folders(BATCHES):
        objects = BatchObjects(batch_id)
        old = list(artifacts.older(objects.staged, before))
        if old and (tokens := _accepted_tokens(artifacts, objects)) is not None:
            removed += _remove(artifacts, [key for key in old if _token(objects, key) not in tokens])
    if removed:
        log.info("objects of unfinished submissions removed", objects=removed)


def _accepted_tokens(artifacts: Artifacts, objects: BatchObjects) -> set[str] | None:
    """The token that `batch.json` names, empty if none was accepted; None if nobody can say."""
    try:
        manifest = fetch_manifest(artifacts, objects.batch_id)
    except RecordUnreadable as error:
        log.error("staged rows kept, batch.json cannot be read", batch=objects.batch_id, reason=str(error))
        return None
    if manifest is not None:
        return {manifest.staged}
    if artifacts.head(objects.plan) is None and artifacts.head(objects.shard(0)) is None:
        return set()
    log.error("staged rows kept, batch.json is gone and the batch was cut into jobs", batch=objects.batch_id)
    return None


def _without_record(artifacts: Artifacts, tenant: str, before: datetime) -> list[str]:
    """Files of a tenant that nobody can name, nor delete: whoever uploaded them was told that it failed."""
    old = {key: key.rpartition("/")[2].partition(".")[0] for key in artifacts.older(upload_files(tenant), before)}
    if not old:
        return []
    known = {key.rpartition("/")[2].removesuffix(".json") for key in artifacts.list(upload_records(tenant))}
    return [key for key, file_id in old.items() if is_file_id(file_id) and file_id not in known]


def _token(objects: BatchObjects, key: str) -> str:
    return key.removeprefix(objects.staged).partition("/")[0]


def _remove(artifacts: Artifacts, keys: Iterable[str]) -> int:
    count = 0
    for key in keys:
        artifacts.delete(key)
        count += 1
    return count
