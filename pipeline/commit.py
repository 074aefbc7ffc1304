"""Commit an image: the PUT of its file, once, whoever is killed.

The sidecar is written first, so that a committed image always has one; the file's own record decides if the two do not
fit together, which happens when two pods raced.
"""

from __future__ import annotations

from pipeline.artifacts import Artifacts, sha256
from pipeline.errors import TesseraError
from pipeline.imagefile import record_in
from pipeline.objects import BatchObjects
from pipeline.results import ImageFailure, ImageResult
from pipeline.shards import ImageTask


class ForeignObject(TesseraError):
    """Something that Tessera did not write, or did not finish, lies where a picture goes."""


def commit_image(artifacts: Artifacts, objects: BatchObjects, result: ImageResult, png: bytes) -> ImageResult:
    """Put the image into the bucket, or take the one that is there; returns the result that stands.

    Raises StoreUnavailable; then nothing is committed, or the picture is there and the next attempt finds it.
    Raises ForeignObject.
    """
    stands = result.model_copy(update={"sha256": sha256(png), "size_bytes": len(png)})
    if artifacts.head(result.key) is None:
        _put_sidecar(artifacts, objects, stands)
        if artifacts.put_new(result.key, png, content_type="image/png"):
            return stands
    return _restored(artifacts, objects, result.row, result.number)


def commit_failure(artifacts: Artifacts, objects: BatchObjects, failure: ImageFailure) -> None:
    """Write down why there is no picture. A later attempt may write it anew."""
    body = failure.model_dump_json().encode()
    artifacts.put(objects.failure(failure.row, failure.number), body, content_type="application/json")


def committed_result(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageResult | None:
    """The result of an image that is in the bucket; None if it is not. Raises ForeignObject."""
    found = artifacts.head(task.key(objects))
    if found is None:
        return None
    body = artifacts.get(objects.sidecar(task.row.row, task.number))
    if body is not None:
        result = ImageResult.model_validate_json(body)
        if (result.sha256, result.size_bytes) == (found.metadata.get("sha256"), found.size_bytes):
            return result
    return _restored(artifacts, objects, task.row.row, task.number)


def committed_failure(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageFailure | None:
    """Why there is no picture, if that was written down."""
    body = artifacts.get(objects.failure(task.row.row, task.number))
    return ImageFailure.model_validate_json(body) if body is not None else None


def _restored(artifacts: Artifacts, objects: BatchObjects, row: int, number: int) -> ImageResult:
    key = objects.image(row, number)
    body = artifacts.get(key)
    record = record_in(body) if body is not None else None
    if body is None or record is None or record.key != key:
        raise ForeignObject(f"{key} holds something that Tessera did not write; remove it and retry")
    result = record.model_copy(update={"sha256": sha256(body), "size_bytes": len(body)})
    _put_sidecar(artifacts, objects, result)
    return result


def _put_sidecar(artifacts: Artifacts, objects: BatchObjects, result: ImageResult) -> None:
    artifacts.put(
        objects.sidecar(result.row, result.number), result.model_dump_json().encode(), content_type="application/json"
    )
