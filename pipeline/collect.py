"""Read the outcomes of a batch out of S3, and bring its files to a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from pipeline.artifacts import Artifacts, sha256
from pipeline.errors import StoreUnavailable
from pipeline.gallery import gallery_parts
from pipeline.objects import BatchObjects
from pipeline.results import ImageFailure, ImageResult, Outcome, parsed_outcomes

_PARALLEL = 8


def results(artifacts: Artifacts, objects: BatchObjects) -> Iterator[ImageResult]:
    """Every image that is there, in the order of the rows; also while the batch still runs. Streams."""
    if artifacts.head(objects.results) is not None:
        yield from (o for o in parsed_outcomes(artifacts.lines(objects.results)) if isinstance(o, ImageResult))
        return
    # Not finalized yet. A sidecar is written before its image, so it alone proves nothing.
    keys = artifacts.list(objects.root + "images/")
    for stem, group in itertools.groupby(keys, lambda key: key.rpartition(".")[0]):
        if len(list(group)) > 1:
            body = artifacts.get(f"{stem}.json")
            if body is not None:
                yield ImageResult.model_validate_json(body)


def failures(artifacts: Artifacts, objects: BatchObjects) -> Iterator[ImageFailure]:
    """Every image that will not be there, and why. Streams."""
    if artifacts.head(objects.errors) is not None:
        yield from _image_failures(artifacts.lines(objects.errors))
        return
    for key in artifacts.list(objects.root + "failures/"):
        body = artifacts.get(key)
        if body is not None:
            yield ImageFailure.model_validate_json(body)


def _image_failures(lines: Iterator[bytes]) -> Iterator[ImageFailure]:
    for line in lines:
        if line.strip() and b'"status":"invalid"' not in line:
            yield ImageFailure.model_validate_json(line)


def image_bytes(artifacts: Artifacts, result: ImageResult) -> bytes:
    """The image's file, checked against its digest. Raises StoreUnavailable if it is gone or damaged."""
    body = artifacts.get(result.key)
    if body is None:
        raise StoreUnavailable(f"{result.key} is not in {artifacts.where} any more")
    if sha256(body) != result.sha256:
        raise StoreUnavailable(f"{result.key} in {artifacts.where} does not have the digest that was recorded")
    return body


def image_if_there(artifacts: Artifacts, result: ImageResult) -> bytes | None:
    """The image's file if it is still in the bucket as it was; None if not."""
    body = artifacts.get(result.key)
    return body if body is not None and sha256(body) == result.sha256 else None


def download(
    artifacts: Artifacts, batch_id: str, folder: Path, on_image: Callable[[ImageResult], None] | None = None
) -> Path:
    """Bring images, results and gallery to `folder`, as they lie in the bucket; returns the gallery's path.

    Files that are there already with the right digest are not fetched again, so a broken download goes on.
    """
    objects = BatchObjects(batch_id)
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(result: ImageResult) -> ImageResult:
        target = folder / result.key.removeprefix(objects.root)
        if not (target.is_file() and sha256(target.read_bytes()) == result.sha256):
            _write(target, image_bytes(artifacts, result))
        return result

    def finish(done: set[Future[ImageResult]]) -> None:
        for future in done:
            result = future.result()
            if on_image is not None:
                on_image(result)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        pending: set[Future[ImageResult]] = set()
        for result in results(artifacts, objects):
            pending.add(pool.submit(fetch, result))
            if len(pending) >= 2 * _PARALLEL:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                finish(done)
        finish(pending)
    for key in (objects.results, objects.errors):
        body = artifacts.get(key)
        if body is not None:
            _write(folder / key.removeprefix(objects.root), body)
    page = folder / objects.gallery.removeprefix(objects.root)
    page.parent.mkdir(parents=True, exist_ok=True)
    with page.open("w", encoding="utf-8") as file:
        file.writelines(gallery_parts(objects, _outcomes(artifacts, objects)))
    return page


def _outcomes(artifacts: Artifacts, objects: BatchObjects) -> Iterator[Outcome]:
    yield from results(artifacts, objects)
    yield from failures(artifacts, objects)


def _write(target: Path, body: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(body)
    part.replace(target)
