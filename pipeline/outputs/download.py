"""Read the outcomes of a batch out of S3, and bring its files to a folder."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from PIL import Image

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.bucket.thumbnail import thumbnail
from pipeline.errors import StoreUnavailable
from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.process.files import part_of, whole_file
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult, parsed_outcomes
from pipeline.schema import read_record

_PARALLEL = 8


def results(artifacts: Artifacts, objects: BatchObjects) -> Iterator[ImageResult]:
    """Every image that is there, in the order of the rows; also while the batch still runs. Streams."""
    if artifacts.head(objects.results) is not None:
        yield from _image_results(artifacts.lines(objects.results), objects.results)
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
        yield from _image_failures(artifacts.lines(objects.errors), objects.errors)
        return
    for key in artifacts.list(objects.root + "failures/"):
        body = artifacts.get(key)
        if body is not None:
            yield read_record(ImageFailure, body, what=key)


def _image_results(lines: Iterable[bytes], what: str) -> Iterator[ImageResult]:
    return (outcome for outcome in parsed_outcomes(lines, what) if isinstance(outcome, ImageResult))


def _image_failures(lines: Iterable[bytes], what: str) -> Iterator[ImageFailure]:
    for number, line in enumerate(lines, 1):
        if line.strip() and b'"status":"invalid"' not in line:
            yield read_record(ImageFailure, line, what=f"{what}, line {number}")


def image_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's file, checked against its digest. Raises StoreUnavailable if it is gone or damaged."""
    body = artifacts.get(result.key)
    if body is None or sha256(body) != result.sha256:
        raise _unlike(artifacts, result, gone=body is None)
    return body


def image_if_there(artifacts: Artifacts, result: ImageResult) -> bytes | None:
    """The image's file if it is still in the bucket as it was; None if not."""
    body = artifacts.get(result.key)
    return body if body is not None and sha256(body) == result.sha256 else None


def small_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's thumbnail; the image itself if it has none. Raises StoreUnavailable if that is gone or damaged."""
    small = artifacts.get(result.thumbnail) if result.thumbnail is not None else None
    return small if small is not None else image_bytes(artifacts, result)


def download(
    artifacts: Artifacts, batch_id: str, folder: Path, on_image: Callable[[ImageResult], None] | None = None
) -> Path:
    """Bring images, thumbnails, results and gallery to `folder`, as they lie in the bucket; returns the gallery's path.

    Files that are there already with the right digest are not fetched again, so a broken download goes on. The results
    take their name last, when all their images are there. Memory holds a few requests, however large the batch is.
    """
    objects = BatchObjects(batch_id)

    def path_of(key: str) -> Path:
        return folder / key.removeprefix(objects.root)

    def fetch(result: ImageResult) -> ImageResult:
        target = path_of(result.key)
        if not _is_whole(target, result):
            with whole_file(target) as file:
                if (digest := artifacts.copy_to(result.key, file)) != result.sha256:
                    raise _unlike(artifacts, result, gone=digest is None)
        if result.thumbnail is not None and not path_of(result.thumbnail).is_file():
            with whole_file(path_of(result.thumbnail)) as file:
                if artifacts.copy_to(result.thumbnail, file) is None:
                    with Image.open(target) as image:
                        file.write(thumbnail(image))
        return result

    # First, for a connection to S3 does not stay open for as long as the images take.
    parts = {key: part_of(path_of(key)) for key in (objects.results, objects.errors)}
    finalized = True
    for key, part in parts.items():
        with part.open("wb") as file:
            finalized = artifacts.copy_to(key, file) is not None and finalized

    def there() -> Iterator[ImageResult]:
        return (
            _image_results(_lines(parts[objects.results]), objects.results)
            if finalized
            else results(artifacts, objects)
        )

    def missing() -> Iterator[ImageFailure]:
        return (
            _image_failures(_lines(parts[objects.errors]), objects.errors)
            if finalized
            else failures(artifacts, objects)
        )

    for result in _in_parallel(fetch, there()):
        if on_image is not None:
            on_image(result)
    outcomes: Iterator[ImageOutcome] = heapq.merge(
        there(), missing(), key=lambda outcome: (outcome.row, outcome.number)
    )
    for key, pieces in gallery_pages(objects, outcomes):
        with whole_file(path_of(key)) as page:
            page.writelines(map(str.encode, pieces))
    for key, part in parts.items():
        if finalized:
            part.replace(path_of(key))
        else:
            part.unlink()
    return path_of(objects.gallery)


def _in_parallel(fetch: Callable[[ImageResult], ImageResult], results: Iterator[ImageResult]) -> Iterator[ImageResult]:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        pending: set[Future[ImageResult]] = set()
        try:
            for result in results:
                pending.add(pool.submit(fetch, result))
                if len(pending) >= 2 * _PARALLEL:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in pending)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _is_whole(path: Path, result: ImageResult) -> bool:
    if not path.is_file() or path.stat().st_size != result.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == result.sha256


def _unlike(artifacts: Artifacts, result: ImageResult, *, gone: bool) -> StoreUnavailable:
    if gone:
        return StoreUnavailable(f"{result.key} is not in {artifacts.where} any more")
    return StoreUnavailable(f"{result.key} in {artifacts.where} does not have the digest that was recorded")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
