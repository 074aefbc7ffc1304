"""Commit an image: the PUT of its file, once, whoever is killed.

The sidecar and the thumbnail are written first, so that a committed image always has them; the file's own record
decides if the two do not fit together, which happens when two pods raced. A file without a record has the object's
metadata instead. An object at an image's key that is damaged, or not ours, is no commit: the image is rendered again
and replaces that very object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import structlog
from pydantic import BaseModel, ConfigDict

from pipeline.bucket.artifacts import Artifacts, StoredObject, sha256
from pipeline.bucket.imagefile import ImageFile, record_in
from pipeline.bucket.sizes import listed_sizes
from pipeline.bucket.thumbnail import CONTENT_TYPE as THUMBNAIL_TYPE
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult, Provenance, parsed_outcomes
from pipeline.records.shards import ImageTask
from pipeline.schema import read_record

log = structlog.get_logger(__name__)

MAX_METADATA_BYTES = 1500
_IMAGE, _MADE = "tessera-image", "tessera-made"


def commit_image(artifacts: Artifacts, objects: BatchObjects, result: ImageResult, file: ImageFile) -> ImageResult:
    """Put the image into the bucket, or take the one that is there; returns the result that stands.

    Raises StoreUnavailable; then nothing is committed, or the picture is there and the next attempt finds it.
    """
    stands = result.model_copy(update={"sha256": sha256(file.body), "size_bytes": len(file.body)})
    sidecar = objects.sidecar(result.row, result.number)
    while True:
        found = artifacts.head(result.key)
        if found is not None and (before := _find_result(artifacts, objects, sidecar, found)):
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
    """The result of an image that is in the bucket; None if it is not, or not whole."""
    found = artifacts.head(task.key(objects))
    return (
        None if found is None else _find_result(artifacts, objects, objects.sidecar(task.row.row, task.number), found)
    )


def committed_failure(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageFailure | None:
    """Why there is no picture, if that was written down."""
    key = objects.failure(task.row.row, task.number)
    body = artifacts.get(key)
    return read_record(ImageFailure, body, what=key) if body is not None else None


def known_outcomes(
    artifacts: Artifacts, objects: BatchObjects, job: int, tasks: Sequence[ImageTask]
) -> dict[int, ImageOutcome]:
    """The outcome of every image of a job that has one, by its index: from the pod's fragment where the bucket agrees.

    Raises StoreUnavailable.
    """
    return confirmed_outcomes(artifacts, objects, tasks, reported_outcomes(artifacts, objects, job))


def reported_outcomes(artifacts: Artifacts, objects: BatchObjects, job: int) -> dict[int, ImageOutcome]:
    """What the fragment of a job says, by the image's index; nothing if there is none yet. Raises StoreUnavailable."""
    key = objects.fragment(job)
    return {outcome.index: outcome for outcome in parsed_outcomes(artifacts.lines(key), key)}


def confirmed_outcomes(
    artifacts: Artifacts, objects: BatchObjects, tasks: Sequence[ImageTask], reported: Mapping[int, ImageOutcome]
) -> dict[int, ImageOutcome]:
    """The outcome of every one of these images that has one, by its index: as reported where the bucket agrees.

    Asks for what the images may have put there and for nothing else, however much lies beside it. Raises
    StoreUnavailable.
    """
    sizes = listed_sizes(artifacts, {task.index: task.key(objects) for task in tasks})
    known: dict[int, ImageOutcome] = {}
    for task in tasks:
        report, size = reported.get(task.index), sizes.get(task.key(objects))
        if isinstance(report, ImageResult) and report.size_bytes == size:
            known[task.index] = report
        elif size is not None and (result := committed_result(artifacts, objects, task)) is not None:
            known[task.index] = result
    without = [task for task in tasks if task.index not in known]
    failed = listed_sizes(artifacts, {task.index: objects.failure(task.row.row, task.number) for task in without})
    for task in without:
        if objects.failure(task.row.row, task.number) in failed:
            failure = committed_failure(artifacts, objects, task)
            if failure is not None:
                known[task.index] = failure
    return known


def _find_result(artifacts: Artifacts, objects: BatchObjects, sidecar: str, found: StoredObject) -> ImageResult | None:
    """The result of the object at an image's key, its sidecar mended; None if it is no whole image of ours."""
    text = artifacts.get(sidecar)
    known = read_record(ImageResult, text, what=sidecar) if text is not None else None
    if known and (known.sha256, known.size_bytes) == (found.metadata.get("sha256"), found.size_bytes):
        return known
    body = artifacts.get(found.key)
    if body is None:
        return None
    digest = sha256(body)
    record = record_in(body) or _from_metadata(found, known)
    # A copy of a bucket may have lost its metadata.
    whole = digest in (found.metadata.get("sha256"), known.sha256 if known else None)
    if record is None or record.key != found.key or not whole:
        log.warning("the object at an image's key is damaged or not ours", key=found.key, size_bytes=len(body))
        return None
    result = record.model_copy(update={"sha256": digest, "size_bytes": len(body)})
    _put_sidecar(artifacts, objects, result)
    return result


class _RenderMetadata(BaseModel):
    """How an image was made, as its object's metadata say it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    seconds: float
    provenance: Provenance


def _metadata(result: ImageResult) -> dict[str, str]:
    """Metadata of an object whose file carries no record: that it is ours, and how it was made."""
    made = json.dumps({"seconds": result.seconds, "provenance": result.provenance.model_dump(mode="json")})
    # S3 takes 2 KiB of metadata. What does not fit stays in the sidecar.
    return {_IMAGE: result.key} | ({_MADE: made} if len(made) <= MAX_METADATA_BYTES else {})


def _from_metadata(found: StoredObject, sidecar: ImageResult | None) -> ImageResult | None:
    """The result of a file without a record: the sidecar's, made as the metadata say; None if it is not ours."""
    if sidecar is None or found.metadata.get(_IMAGE) != found.key:
        return None
    if (text := found.metadata.get(_MADE)) is None:
        return sidecar
    made = read_record(_RenderMetadata, text, what=f"the metadata of {found.key}")
    return sidecar.model_copy(update={"seconds": made.seconds, "provenance": made.provenance})


def _put_sidecar(artifacts: Artifacts, objects: BatchObjects, result: ImageResult) -> None:
    artifacts.put(
        objects.sidecar(result.row, result.number), result.model_dump_json().encode(), content_type="application/json"
    )
