"""Download a batch into a folder: images, thumbnails, results, and the gallery."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from PIL import Image

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.outcomes import failures, failures_in, missing_or_damaged, results, results_in
from pipeline.bucket.thumbnail import thumbnail
from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.process.files import part_of, whole_file
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult

_PARALLEL = 8


def download(
    artifacts: Artifacts, batch_id: str, folder: Path, on_image: Callable[[ImageResult], None] | None = None
) -> Path:
    """Download images, thumbnails, results and gallery into `folder`, laid out as in the bucket.

    Images that are there already with the right digest are not fetched again, so a broken download goes on where it
    stopped. The results get their names last, when all their images are there. Memory holds a few requests, however
    large the batch is. Returns the gallery's path.
    """
    objects = BatchObjects(batch_id)

    def path_of(key: str) -> Path:
        return folder / key.removeprefix(objects.root)

    def fetch(result: ImageResult) -> ImageResult:
        target = path_of(result.key)
        if not _is_downloaded(target, result):
            with whole_file(target) as file:
                if (digest := artifacts.copy_to(result.key, file)) != result.sha256:
                    raise missing_or_damaged(artifacts, result, gone=digest is None)
        if result.thumbnail is not None and not path_of(result.thumbnail).is_file():
            with whole_file(path_of(result.thumbnail)) as file:
                if artifacts.copy_to(result.thumbnail, file) is None:
                    with Image.open(target) as image:
                        file.write(thumbnail(image))
        return result

    # First of all: a connection to S3 does not stay open for as long as the images take.
    parts = {key: part_of(path_of(key)) for key in (objects.results, objects.errors)}
    finalized = True
    for key, part in parts.items():
        with part.open("wb") as file:
            finalized = artifacts.copy_to(key, file) is not None and finalized

    def rendered() -> Iterator[ImageResult]:
        return results_in(_lines(parts[objects.results]), objects.results) if finalized else results(artifacts, objects)

    def failed() -> Iterator[ImageFailure]:
        return failures_in(_lines(parts[objects.errors]), objects.errors) if finalized else failures(artifacts, objects)

    for result in _in_parallel(fetch, rendered()):
        if on_image is not None:
            on_image(result)
    outcomes: Iterator[ImageOutcome] = heapq.merge(
        rendered(), failed(), key=lambda outcome: (outcome.row, outcome.number)
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


def _is_downloaded(path: Path, result: ImageResult) -> bool:
    if not path.is_file() or path.stat().st_size != result.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == result.sha256


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
