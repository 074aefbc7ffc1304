"""What became of a batch's images, read out of the bucket: results, failures, and the files of images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.errors import StoreUnavailable
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageResult, parsed_outcomes
from pipeline.schema import read_record


def results(artifacts: Artifacts, objects: BatchObjects) -> Iterator[ImageResult]:
    """Every image that is there, in the order of the rows; also while the batch still runs. Streams."""
    if artifacts.head(objects.results) is not None:
        yield from results_in(artifacts.lines(objects.results), objects.results)
        return
    # Not finalized yet. A sidecar is written before its image, so it alone proves nothing.
    keys = artifacts.list(objects.root + "images/")
    for stem, group in itertools.groupby(keys, lambda key: key.rpartition(".")[0]):
        if len(list(group)) > 1:
            body = artifacts.get(f"{stem}.json")
            if body is not None:
                yield read_record(ImageResult, body, what=f"{stem}.json")


def failures(artifacts: Artifacts, objects: BatchObjects) -> Iterator[ImageFailure]:
    """Every image that will not be there, and why. Streams."""
    if artifacts.head(objects.errors) is not None:
        yield from failures_in(artifacts.lines(objects.errors), objects.errors)
        return
    for key in artifacts.list(objects.root + "failures/"):
        body = artifacts.get(key)
        if body is not None:
            yield read_record(ImageFailure, body, what=key)


def results_in(lines: Iterable[bytes], what: str) -> Iterator[ImageResult]:
    """The images of a results.jsonl; `what` names it in errors."""
    return (outcome for outcome in parsed_outcomes(lines, what) if isinstance(outcome, ImageResult))


def failures_in(lines: Iterable[bytes], what: str) -> Iterator[ImageFailure]:
    """The failed images of an errors.jsonl, without the rows that were refused; `what` names it in errors."""
    for number, line in enumerate(lines, 1):
        if line.strip() and b'"status":"invalid"' not in line:
            yield read_record(ImageFailure, line, what=f"{what}, line {number}")


def image_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's file, checked against its digest. Raises StoreUnavailable if it is gone or damaged."""
    body = artifacts.get(result.key)
    if body is None or sha256(body) != result.sha256:
        raise missing_or_damaged(artifacts, result, gone=body is None)
    return body


def image_if_there(artifacts: Artifacts, result: ImageResult) -> bytes | None:
    """The image's file if it is still in the bucket as it was; None if not."""
    body = artifacts.get(result.key)
    return body if body is not None and sha256(body) == result.sha256 else None


def thumbnail_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's thumbnail; the image itself if it has none. Raises StoreUnavailable if that is gone or damaged."""
    small = artifacts.get(result.thumbnail) if result.thumbnail is not None else None
    return small if small is not None else image_bytes(artifacts, result)


def missing_or_damaged(artifacts: Artifacts, result: ImageResult, *, gone: bool) -> StoreUnavailable:
    """The error for an image's file that is gone, or is not what was recorded."""
    if gone:
        return StoreUnavailable(f"{result.key} is not in {artifacts.where} any more")
    return StoreUnavailable(f"{result.key} in {artifacts.where} does not have the digest that was recorded")
