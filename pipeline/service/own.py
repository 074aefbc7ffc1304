"""A caller's own batches and schedules: somebody else's are unknown to them."""

from __future__ import annotations

from pipeline.bucket.fetch import fetch, fetch_manifest
from pipeline.client.batch import Batch
from pipeline.errors import BatchLost, RecordUnreadable, UnknownBatch, UnknownSchedule
from pipeline.names import ID, parsed_image_id
from pipeline.operations.status import BatchStatus, batch_status
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.records.schedules.schedule import ScheduleRecord, checked_name
from pipeline.service.access import Caller
from pipeline.service.context import Service
from pipeline.service.refusals import NotFound


def own_batch(service: Service, caller: Caller, batch_id: str) -> Batch:
    """A batch that the caller may see.

    Raises UnknownBatch if there is none or it is another tenant's; BatchLost if it is theirs and only in the bucket.
    """
    if not ID.fullmatch(batch_id):
        raise UnknownBatch(batch_id[:80])
    try:
        caller.check_batch_tenant(batch_id, service.ledger.batches.get(batch_id).manifest.tenant)
    except UnknownBatch:
        _check_lost(service, caller, batch_id)
        raise
    except RecordUnreadable:
        if not caller.operator:
            _check_tenant_in_bucket(service, caller, batch_id)
    return service.client.batch(batch_id)


def own_status(service: Service, caller: Caller, batch_id: str) -> BatchStatus:
    """The status of a batch that the caller may see, with few requests to Redis. Raises as `own_batch`."""
    if not ID.fullmatch(batch_id):
        raise UnknownBatch(batch_id[:80])
    try:
        seen = batch_status(service.ledger, batch_id)
    except (UnknownBatch, RecordUnreadable):
        own_batch(service, caller, batch_id)
        raise
    caller.check_batch_tenant(batch_id, seen.tenant)
    return seen


def image_result(service: Service, batch_id: str, image_id: str) -> ImageResult:
    """What is on record of an image of a batch that may be seen. Raises NotFound, RecordUnreadable."""
    key = BatchObjects(batch_id).sidecar(*parsed_image_id(image_id))
    result = fetch(ImageResult, service.artifacts, key)
    if result is None:
        raise NotFound(f"image {image_id[:40]!r} of batch {batch_id!r} is not there, or not yet")
    if result.batch_id != batch_id or result.image_id != image_id:
        raise RecordUnreadable(key, "the sidecar of another image", "that of this one")
    return result


def own_schedule(service: Service, caller: Caller, name: str) -> ScheduleRecord:
    """A schedule that the caller may see. Raises UnknownSchedule if there is none or it is another tenant's."""
    record = service.ledger.schedules.get(checked_name(name))
    if record is None or not caller.may_see(record.spec.tenant):
        raise UnknownSchedule(name)
    return record


def _manifest(service: Service, batch_id: str) -> BatchManifest | None:
    return fetch_manifest(service.artifacts, batch_id)


def _check_lost(service: Service, caller: Caller, batch_id: str) -> None:
    if service.ledger.batches.known(batch_id):
        return  # it is another tenant's
    manifest = _manifest(service, batch_id)
    if manifest is not None and manifest.purge is None and caller.may_see(manifest.tenant):
        raise BatchLost(batch_id)


def _check_tenant_in_bucket(service: Service, caller: Caller, batch_id: str) -> None:
    """Of a batch whose record cannot be read, the manifest says whose it is."""
    manifest = _manifest(service, batch_id)
    caller.check_batch_tenant(batch_id, "" if manifest is None else manifest.tenant)
