"""Commit an image: the PUT of its file, once, whoever is killed.

The sidecar is written first, so that a committed image always has one; the file's own record decides if the two do not
fit together, which happens when two pods raced. A file without a record has the object's metadata instead.
"""

from __future__ import annotations

import json

from pipeline.artifacts import Artifacts, sha256
from pipeline.errors import TesseraError
from pipeline.imagefile import ImageFile, record_in
from pipeline.objects import BatchObjects
from pipeline.results import ImageFailure, ImageResult
from pipeline.shards import ImageTask

MAX_IMPRINT_BYTES = 1500
_IMAGE, _MADE = "tessera-image", "tessera-made"


class ForeignObject(TesseraError):
    """Something that Tessera did not write, or did not finish, lies where a picture goes."""


def commit_image(artifacts: Artifacts, objects: BatchObjects, result: ImageResult, file: ImageFile) -> ImageResult:
    """Put the image into the bucket, or take the one that is there; returns the result that stands.

    Raises StoreUnavailable; then nothing is committed, or the picture is there and the next attempt finds it.
    Raises ForeignObject.
    """
    stands = result.model_copy(update={"sha256": sha256(file.body), "size_bytes": len(file.body)})
    if artifacts.head(result.key) is None:
        _put_sidecar(artifacts, objects, stands)
        metadata = {} if file.has_record else _imprint(stands)
        if artifacts.put_new(result.key, file.body, content_type=file.content_type, metadata=metadata):
            return stands
    return _restored(artifacts, objects, result.key, objects.sidecar(result.row, result.number))


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
    return _restored(artifacts, objects, task.key(objects), objects.sidecar(task.row.row, task.number))


def committed_failure(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageFailure | None:
    """Why there is no picture, if that was written down."""
    body = artifacts.get(objects.failure(task.row.row, task.number))
    return ImageFailure.model_validate_json(body) if body is not None else None


def _restored(artifacts: Artifacts, objects: BatchObjects, key: str, sidecar: str) -> ImageResult:
    body = artifacts.get(key)
    record = record_in(body) if body is not None else None
    if body is not None and record is None:
        record = _from_imprint(artifacts, key, sidecar, sha256(body))
    if body is None or record is None or record.key != key:
        raise ForeignObject(f"{key} holds something that Tessera did not write; remove it and retry")
    result = record.model_copy(update={"sha256": sha256(body), "size_bytes": len(body)})
    _put_sidecar(artifacts, objects, result)
    return result


def _imprint(result: ImageResult) -> dict[str, str]:
    """What the object's metadata says of a file that says nothing itself: that it is ours, and how it was made."""
    made = json.dumps({"seconds": result.seconds, "provenance": result.provenance.model_dump(mode="json")})
    # S3 takes 2 KiB of metadata. What does not fit stays in the sidecar.
    return {_IMAGE: result.key} | ({_MADE: made} if len(made) <= MAX_IMPRINT_BYTES else {})


def _from_imprint(artifacts: Artifacts, key: str, sidecar: str, digest: str) -> ImageResult | None:
    """The record of a file without one: the sidecar's, made as the object's metadata say; None if it is not ours."""
    found, known = artifacts.head(key), artifacts.get(sidecar)
    if found is None or known is None or (found.metadata.get(_IMAGE), found.metadata.get("sha256")) != (key, digest):
        return None
    result = ImageResult.model_validate_json(known)
    made = json.loads(found.metadata.get(_MADE, "{}"))
    return ImageResult.model_validate(result.model_dump() | made)


def _put_sidecar(artifacts: Artifacts, objects: BatchObjects, result: ImageResult) -> None:
    artifacts.put(
        objects.sidecar(result.row, result.number), result.model_dump_json().encode(), content_type="application/json"
    )
