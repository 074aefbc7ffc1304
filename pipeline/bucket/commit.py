"""Commit an image: the PUT of its file, once, whoever is killed.

The sidecar and the thumbnail are written first, so that a committed image always has them; the file's own record
decides if the two do not fit together, which happens when two pods raced. A file without a record has the object's
metadata instead. An object at an image's key that is damaged, or not ours, is no commit: the image is rendered again
and replaces that very object. A whole picture of which nothing can be read, as another version may write it, is one,
and is never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from pydantic import BaseModel

from pipeline.bucket.artifacts import Artifacts, StoredObject, sha256
from pipeline.bucket.fetch import fetch
from pipeline.bucket.imagefile import ImageFile, has_record, record_in
from pipeline.bucket.thumbnail import CONTENT_TYPE as THUMBNAIL_TYPE
from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.records.object_keys import BatchObjects
from pipeline.records.object_sizes import largest_image
from pipeline.records.provenance import Provenance, RenderSeconds
from pipeline.records.results import ImageFailure, ImageResult, is_result_of, result_of
from pipeline.records.shards import ImageTask
from pipeline.schema import read_record
from pipeline.stored import Record

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)

MAX_METADATA_BYTES = 1500
_IMAGE, _MADE = "tessera-image", "tessera-made"


def commit_image(artifacts: Artifacts, objects: BatchObjects, result: ImageResult, file: ImageFile) -> ImageResult:
    """Put the image into the bucket, or take the one that is there; returns the result that stands.

    Raises StoreUnavailable; then nothing is committed, or the picture is there and the next attempt finds it. Raises
    RecordUnreadable if a picture is there of which this version can read nothing.
    """
    stands = result.model_copy(update={"sha256": sha256(file.body), "size_bytes": len(file.body)})
    ours = _Expected(
        sidecar=objects.sidecar(result.row, result.number),
        most_bytes=largest_image(result.width, result.height),
        fits=lambda other: _same_image(other, result),
        rebuilt=lambda made, seconds: result.model_copy(update={"provenance": made, "seconds": seconds}),
    )
    while True:
        found = artifacts.head(result.key)
        if found is not None and (before := _find_result(artifacts, objects, ours, found)):
            return before
        _put_sidecar(artifacts, objects, stands)
        if stands.thumbnail is not None:
            artifacts.put(stands.thumbnail, file.thumbnail, content_type=THUMBNAIL_TYPE)
        if artifacts.put_new(
            result.key,
            file.body,
            content_type=file.content_type,
            metadata={} if file.has_record else _metadata(stands),
            over=found.etag if found is not None else None,
        ):
            return stands


def commit_failure(artifacts: Artifacts, objects: BatchObjects, failure: ImageFailure) -> None:
    """Write down why there is no picture. A later attempt may write it anew."""
    body = failure.model_dump_json().encode()
    artifacts.put(objects.failure(failure.row, failure.number), body, content_type="application/json")


def committed_result(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageResult | None:
    """The result of an image that is in the bucket; None if it is not, or not whole.

    Raises RecordUnreadable if it is whole and nothing that is known of it can be read.
    """
    found = artifacts.head(task.key(objects))
    if found is None:
        return None
    expected = _Expected(
        sidecar=objects.sidecar(task.row.row, task.number),
        most_bytes=largest_image(task.row.width, task.row.height),
        fits=lambda result: is_result_of(task, objects, result),
        rebuilt=lambda made, seconds: result_of(task, objects, made, seconds),
    )
    return _find_result(artifacts, objects, expected, found)


def committed_failure(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageFailure | None:
    """Why there is no picture, if that was written down and can be read."""
    key = objects.failure(task.row.row, task.number)
    failure = _stored(ImageFailure, artifacts, key)
    if failure is not None and (failure.index, failure.image_id) != (task.index, task.id):
        log.warning("a failure of another image was left out", key=key)
        return None
    return failure


@dataclass(frozen=True)
class _Expected:
    """The image that belongs at a key.

    Attributes:
        sidecar: where its record lies beside it.
        most_bytes: no file of so many pixels is larger.
        fits: whether a result is this image's.
        rebuilt: its result, from how it was made and in how many seconds.
    """

    sidecar: str
    most_bytes: int
    fits: Callable[[ImageResult], bool]
    rebuilt: Callable[[Provenance, float], ImageResult]


def _find_result(
    artifacts: Artifacts, objects: BatchObjects, expected: _Expected, found: StoredObject
) -> ImageResult | None:
    """The result of the object at an image's key, its sidecar mended; None if it is no whole image of ours.

    Raises RecordUnreadable if it is one and neither sidecar, file nor metadata can be read.
    """
    known = _stored(ImageResult, artifacts, expected.sidecar)
    if known is not None and not expected.fits(known):
        log.warning("a sidecar of another image was left out", key=expected.sidecar)
        known = None
    if known and (known.sha256, known.size_bytes) == (found.metadata.get("sha256"), found.size_bytes):
        return known
    if found.size_bytes > expected.most_bytes:
        log.warning("the object at an image's key is none: too large", key=found.key, size_bytes=found.size_bytes)
        return None
    body = artifacts.get(found.key)
    if body is None:
        return None
    digest = sha256(body)
    # A copy of a bucket may have lost its metadata.
    whole = digest in (found.metadata.get("sha256"), known.sha256 if known else None)
    record = _record_of(body, found.key) if whole else None
    result = record or (_from_metadata(found, known, expected) if whole else None)
    if result is None or not expected.fits(result):
        if whole and record is None and has_record(body):
            raise RecordUnreadable(f"the picture {found.key}", "a record of another version", ImageResult.__name__)
        log.warning("the object at an image's key is damaged or not ours", key=found.key, size_bytes=len(body))
        return None
    result = result.model_copy(update={"sha256": digest, "size_bytes": len(body)})
    _put_sidecar(artifacts, objects, result)
    return result


def _stored(kind: type[M], artifacts: Artifacts, key: str) -> M | None:
    """The record under a key; None, after a warning if it is there, if it cannot be read."""
    try:
        return fetch(kind, artifacts, key)
    except RecordUnreadable as error:
        log.warning("a stored record is passed over", reason=str(error))
        return None


def _read_or_warn(kind: type[M], body: bytes | str, what: str) -> M | None:
    """The record; None, after a warning, if it cannot be read: what it would say is then found out by other means."""
    try:
        return read_record(kind, body, what=what)
    except RecordUnreadable as error:
        log.warning("a stored record is passed over", reason=str(error))
        return None


def _record_of(body: bytes, key: str) -> ImageResult | None:
    try:
        return record_in(body)
    except RecordTooNew as error:
        log.warning("the record inside a picture is passed over", key=key, reason=str(error))
        return None


def _same_image(one: ImageResult, other: ImageResult) -> bool:
    return (one.key, one.image_id, one.index, one.custom_id) == (
        other.key,
        other.image_id,
        other.index,
        other.custom_id,
    )


class _RenderMetadata(Record):
    """How an image was made, as its object's metadata say it."""

    seconds: RenderSeconds
    provenance: Provenance


def _metadata(result: ImageResult) -> dict[str, str]:
    """Metadata of an object whose file carries no record: that it is ours, and how it was made."""
    made = json.dumps({"seconds": result.seconds, "provenance": result.provenance.model_dump(mode="json")})
    # S3 takes 2 KiB of metadata. What does not fit stays in the sidecar.
    return {_IMAGE: result.key} | ({_MADE: made} if len(made) <= MAX_METADATA_BYTES else {})


def _from_metadata(found: StoredObject, sidecar: ImageResult | None, expected: _Expected) -> ImageResult | None:
    """The result of a file without a record: the sidecar's, made as the metadata say; None if it is not ours."""
    if found.metadata.get(_IMAGE) != found.key:
        return None
    text = found.metadata.get(_MADE)
    made = _read_or_warn(_RenderMetadata, text, f"the metadata of {found.key}") if text is not None else None
    if made is None:
        return sidecar
    if sidecar is None:
        return expected.rebuilt(made.provenance, made.seconds)
    return sidecar.model_copy(update={"seconds": made.seconds, "provenance": made.provenance})


def _put_sidecar(artifacts: Artifacts, objects: BatchObjects, result: ImageResult) -> None:
    artifacts.put(
        objects.sidecar(result.row, result.number), result.model_dump_json().encode(), content_type="application/json"
    )
