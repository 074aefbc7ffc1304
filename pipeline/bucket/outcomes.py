"""What became of a batch's images, read out of the bucket: results, failures, and the files of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.bucket.fetch import fetch
from pipeline.bucket.opened import is_picture
from pipeline.errors import RecordForeign, RecordUnreadable, StoreUnavailable
from pipeline.records.object_keys import BatchObjects
from pipeline.records.object_sizes import THUMBNAIL_BYTES
from pipeline.records.results import ImageFailure, ImageResult, parsed_outcomes
from pipeline.schema import read_each

M = TypeVar("M", bound=BaseModel)

OnUnreadable = Callable[[RecordUnreadable], object] | None  # gets each record that cannot be read, instead of an error


def results(
    artifacts: Artifacts,
    objects: BatchObjects,
    on_unreadable: OnUnreadable = None,
    *,
    known: Container[str] = (),
) -> Iterator[ImageResult]:
    """Every image that is there, in the order of the rows; also while the batch still runs. Streams.

    Those whose ids are `known` are left out, and not read. Raises RecordUnreadable if there is no `on_unreadable`.
    """
    if artifacts.head(objects.results) is not None:
        every = results_in(artifacts.lines(objects.results), objects.results, objects, on_unreadable)
        yield from (result for result in every if result.image_id not in known)
        return
    # Not finalized yet. A sidecar is written before its image, so it alone proves nothing.
    keys = artifacts.list(objects.root + "images/")
    for stem, group in itertools.groupby(keys, lambda key: key.rpartition(".")[0]):
        if len(list(group)) > 1 and stem.rpartition("/")[2] not in known:
            yield from _in_sidecar(artifacts, objects, f"{stem}.json", on_unreadable)


def _in_sidecar(
    artifacts: Artifacts, objects: BatchObjects, key: str, on_unreadable: OnUnreadable
) -> Iterator[ImageResult]:
    for result in _record(ImageResult, artifacts, key, on_unreadable):
        if result.batch_id == objects.batch_id and key == objects.sidecar(result.row, result.number):
            yield result
        else:
            _refuse(RecordForeign(key, "the sidecar of another image", "that of this one"), on_unreadable)


def failures(artifacts: Artifacts, objects: BatchObjects, on_unreadable: OnUnreadable = None) -> Iterator[ImageFailure]:
    """Every image that will not be there, and why. Streams. Raises as `results`."""
    if artifacts.head(objects.errors) is not None:
        yield from failures_in(artifacts.lines(objects.errors), objects.errors, on_unreadable)
        return
    for key in artifacts.list(objects.root + "failures/"):
        yield from _record(ImageFailure, artifacts, key, on_unreadable)


def results_in(
    lines: Iterable[bytes], what: str, objects: BatchObjects, on_unreadable: OnUnreadable = None
) -> Iterator[ImageResult]:
    """The images of a results.jsonl of this batch; `what` names it in errors."""
    outcomes = parsed_outcomes(lines, what, objects, on_unreadable=on_unreadable)
    return (outcome for outcome in outcomes if isinstance(outcome, ImageResult))


def failures_in(lines: Iterable[bytes], what: str, on_unreadable: OnUnreadable = None) -> Iterator[ImageFailure]:
    """The failed images of an errors.jsonl, without the rows that were refused; `what` names it in errors."""
    images = (b"" if b'"status":"invalid"' in line else line for line in lines)
    return (failure for _, failure in read_each(ImageFailure, images, what=what, on_unreadable=on_unreadable))


def _record(kind: type[M], artifacts: Artifacts, key: str, on_unreadable: OnUnreadable) -> Iterator[M]:
    try:
        record = fetch(kind, artifacts, key)
    except RecordUnreadable as error:
        _refuse(error, on_unreadable)
    else:
        yield from [] if record is None else [record]


def _refuse(error: RecordUnreadable, on_unreadable: OnUnreadable) -> None:
    if on_unreadable is None:
        raise error
    on_unreadable(error)


def image_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's file, checked against its size and digest. Raises StoreUnavailable if it is gone or damaged."""
    body = _file(artifacts, result.key, result.size_bytes)
    if not body or sha256(body) != result.sha256:
        raise missing_or_damaged(artifacts, result, gone=body is None)
    return body


def image_if_there(artifacts: Artifacts, result: ImageResult) -> bytes | None:
    """The image's file if it is still in the bucket as it was; None if not."""
    body = _file(artifacts, result.key, result.size_bytes)
    return body if body and sha256(body) == result.sha256 else None


def thumbnail_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's thumbnail; the image itself if it has none. Raises StoreUnavailable if that is gone or damaged."""
    return _thumbnail(artifacts, result) or image_bytes(artifacts, result)


def thumbnail_if_there(artifacts: Artifacts, result: ImageResult) -> bytes | None:
    """The same; None if the image is gone or damaged as well."""
    return _thumbnail(artifacts, result) or image_if_there(artifacts, result)


def _thumbnail(artifacts: Artifacts, result: ImageResult) -> bytes | None:
    small = _file(artifacts, result.thumbnail, THUMBNAIL_BYTES) if result.thumbnail is not None else None
    return small if small and is_picture(small) else None


def _file(artifacts: Artifacts, key: str, most_bytes: int) -> bytes | None:
    """The object; None if it is not there, nothing if it is larger than it may be."""
    try:
        return artifacts.get(key, most_bytes)
    except RecordUnreadable:
        return b""


def missing_or_damaged(artifacts: Artifacts, result: ImageResult, *, gone: bool) -> StoreUnavailable:
    """The error for an image's file that is gone, or is not what was recorded."""
    if gone:
        return StoreUnavailable(f"{result.key} is not in {artifacts.where} any more")
    return StoreUnavailable(f"{result.key} in {artifacts.where} does not have the digest that was recorded")
