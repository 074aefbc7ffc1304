"""Results, errors and gallery of a batch from the fragments of its jobs, with the proof that no image is missing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import IO

import structlog

from pipeline.bucket.fetch import fetch_outcomes
from pipeline.bucket.sizes import pictures_gone
from pipeline.errors import RecordTooNew, RecordUnreadable, TesseraError
from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.process.files import spool
from pipeline.process.parallel import in_order
from pipeline.records.batch import BatchManifest
from pipeline.records.coverage import Coverage
from pipeline.records.end_marker import FileDigest, Vouched
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import (
    FailureCode,
    ImageOutcome,
    ImageResult,
    RefusedLine,
    in_row_order,
)
from pipeline.states import ImageState
from tasks.process.context import Context

log = structlog.get_logger(__name__)

AT_A_TIME = 8  # fragments that are fetched
# Pictures that are looked for at once: a list shows a thousand objects, of which half are sidecars.
LOOKED_FOR, LOOKS_AT_A_TIME = 500, 2


class Unproved(TesseraError):
    """The fragments of a batch do not prove that every image of it has exactly one outcome."""


class _Lines:
    """A file of lines, its digest, and how many outcomes of each state are in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._digest = hashlib.sha256()

    def write(self, line: bytes) -> None:
        self._digest.update(line)
        self.file.write(line)

    def put(self, context: Context, key: str) -> FileDigest:
        size_bytes = self.file.tell()
        _put(context, key, "application/x-ndjson", self.file)
        return FileDigest(sha256=self._digest.hexdigest(), size_bytes=size_bytes)


def write_results(context: Context, manifest: BatchManifest, jobs: int, *, proving: bool = True) -> Vouched:
    """Write results, errors and gallery, in the order of the rows; returns what they say.

    One pass over the fragments, and over lists of their pictures. Memory holds a few of them, a bit for each image, and
    outcomes that must wait for those of earlier rows. Raises Unproved if a fragment is gone, damaged, or of
    other images, if an image has none or two outcomes, or if a picture is gone or of another size; without `proving`,
    such fragments and lines are left out, and nobody looks for pictures.
    """
    objects, coverage, counts = BatchObjects(manifest.id), Coverage(manifest.images), Counter[ImageState]()

    def fragment(job: int) -> list[ImageOutcome] | Unproved:
        try:
            return _outcomes(context, objects, job)
        except Unproved as error:
            return error

    def each() -> Iterator[ImageOutcome]:
        fragments: Iterator[list[ImageOutcome] | Unproved] = in_order(fragment, range(jobs), at_a_time=AT_A_TIME)
        for job, outcomes in enumerate(_looked_for(context, fragments) if proving else fragments):
            try:
                yield from _counted(objects.fragment(job), outcomes, coverage)
            except Unproved:
                if proving:
                    raise
        if proving and coverage.left:
            raise Unproved(f"{coverage.left} images of batch {manifest.id} are in no fragment")

    with spool() as results_file, spool() as errors_file:
        results, errors = _Lines(results_file), _Lines(errors_file)
        for line in _invalid_rows(context, manifest):
            errors.write(line + b"\n")

        def write_each() -> Iterator[ImageOutcome]:
            for outcome in in_row_order(each()):
                lines = results if isinstance(outcome, ImageResult) else errors
                lines.write(outcome.model_dump_json().encode() + b"\n")
                counts[_state_of(outcome)] += 1
                yield outcome

        for key, pieces in gallery_pages(objects, write_each()):
            with spool() as page:
                page.writelines(map(str.encode, pieces))
                _put(context, key, "text/html; charset=utf-8", page)
        return Vouched(
            images=manifest.images,
            succeeded=counts[ImageState.SUCCEEDED],
            failed=counts[ImageState.FAILED],
            cancelled=counts[ImageState.CANCELLED],
            jobs=jobs,
            input_sha256=manifest.input_sha256,
            results=results.put(context, objects.results),
            errors=errors.put(context, objects.errors),
        )


def _outcomes(context: Context, objects: BatchObjects, job: int) -> list[ImageOutcome]:
    """The outcomes of a fragment. Raises Unproved, RecordTooNew."""
    try:
        outcomes = fetch_outcomes(context.artifacts, objects, job)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        raise Unproved(str(error)) from error
    if outcomes is None:
        raise Unproved(f"{objects.fragment(job)} is not there")
    return outcomes


def _looked_for(
    context: Context, fragments: Iterator[list[ImageOutcome] | Unproved]
) -> Iterator[list[ImageOutcome] | Unproved]:
    """These fragments, once the pictures of each are found where they were committed; those of several at once."""

    def look(some: list[list[ImageOutcome] | Unproved]) -> list[list[ImageOutcome] | Unproved]:
        outcomes = [one for fragment in some if not isinstance(fragment, Unproved) for one in fragment]
        gone = pictures_gone(context.artifacts, outcomes)
        return [Unproved(f"{gone[0]} is gone, or not as it was committed")] if gone else some

    for some in in_order(look, _together(fragments), at_a_time=LOOKS_AT_A_TIME):
        yield from some


def _together(fragments: Iterator[list[ImageOutcome] | Unproved]) -> Iterator[list[list[ImageOutcome] | Unproved]]:
    """Fragments that follow one another, in lists of LOOKED_FOR images or of one fragment that has more."""
    some: list[list[ImageOutcome] | Unproved] = []
    images = 0
    for fragment in fragments:
        size = 0 if isinstance(fragment, Unproved) else len(fragment)
        if some and images + size > LOOKED_FOR:
            yield some
            some, images = [], 0
        some.append(fragment)
        images += size
    if some:
        yield some


def _counted(key: str, outcomes: list[ImageOutcome] | Unproved, coverage: Coverage) -> Iterator[ImageOutcome]:
    """The outcomes of a fragment, each recorded in the coverage. Raises Unproved."""
    if isinstance(outcomes, Unproved):
        raise outcomes
    for outcome in outcomes:
        if not coverage.add(outcome.index):
            raise Unproved(f"{key} has a second outcome of image {outcome.index}, or there is no such image")
        yield outcome


def _invalid_rows(context: Context, manifest: BatchManifest) -> Iterator[bytes]:
    """The lines for rows that were left out; one that says so if they are gone."""
    if not manifest.invalid_rows:
        return
    key = BatchObjects(manifest.id).invalid(manifest.staged)
    if context.artifacts.head(key) is not None:
        yield from context.artifacts.lines(key)
        return
    log.error("what was wrong with rows that were left out is gone", batch=manifest.id, key=key)
    message = (
        f"what was wrong with {manifest.invalid_rows} rows that were left out is not known any more: {key} is gone"
    )
    yield RefusedLine(line=0, field=None, message=message).model_dump_json().encode()


def _state_of(outcome: ImageOutcome) -> ImageState:
    if isinstance(outcome, ImageResult):
        return ImageState.SUCCEEDED
    return ImageState.CANCELLED if outcome.code is FailureCode.CANCELLED else ImageState.FAILED


def _put(context: Context, key: str, content_type: str, file: IO[bytes]) -> None:
    file.seek(0)
    context.artifacts.put(key, file, content_type=content_type)
