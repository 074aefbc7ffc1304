"""Write the results of a batch whose jobs have all ended. Doing it twice writes the same again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import IO

import structlog

from pipeline.ledger.batches import Assumed
from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.process.files import spool
from pipeline.process.parallel import in_order
from pipeline.records.batch import BatchManifest, BatchRecord, advance
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageOutcome, ImageResult, in_row_order, parsed_outcomes
from pipeline.states import BatchState
from tasks.process.context import Context

log = structlog.get_logger(__name__)

AT_A_TIME = 8  # fragments that are fetched


def finalize(context: Context, batch_id: str) -> None:
    """Write results.jsonl, errors.jsonl and the gallery, then the marker, then the final state to the ledger."""
    with context.ledger.locks.only_one(f"finalize-{batch_id}") as mine:
        if not mine:
            return
        record = context.ledger.batches.get(batch_id)
        jobs = record.jobs
        if jobs is None or record.reopen is not None or context.ledger.jobs.any_unfinished(batch_id):
            return
        if record.state in (BatchState.IN_PROGRESS, BatchState.PAUSED):
            record = advance(record, BatchState.FINALIZING, at=context.ledger.now())
            context.ledger.batches.write(record, Assumed(jobs=jobs, ended=True))
        if (end := _end_of(record)) is None:
            return
        objects = BatchObjects(batch_id)
        write_results(context, record.manifest, jobs)
        context.artifacts.put(objects.marker(end), (record.reason or "").encode(), content_type="text/plain")
        context.ledger.batches.write(advance(record, end, at=context.ledger.now()), Assumed(jobs=jobs, ended=True))
        log.info("batch finished", batch=batch_id, state=end.value)


def _end_of(record: BatchRecord) -> BatchState | None:
    """How a batch ends whose jobs are over; None if it is not at its end. One that is cancelled for a reason failed."""
    if record.state is BatchState.CANCELLING:
        return BatchState.CANCELLED if record.reason is None else BatchState.FAILED
    return BatchState.COMPLETED if record.state is BatchState.FINALIZING else None


def write_results(context: Context, manifest: BatchManifest, jobs: int) -> None:
    """Results, errors and gallery from the jobs' fragments, in the order of the rows.

    One pass over the fragments. Memory holds a few of them, and outcomes that must wait for those of earlier rows.
    """
    objects = BatchObjects(manifest.id)

    def fragment(job: int) -> bytes:
        return context.artifacts.get(objects.fragment(job)) or b""

    fragments = in_order(fragment, range(jobs), at_a_time=AT_A_TIME)
    each = (parsed_outcomes(body.splitlines(), objects.fragment(job)) for job, body in enumerate(fragments))
    outcomes = in_row_order(chain.from_iterable(each))
    with spool() as results, spool() as errors:
        errors.writelines(line + b"\n" for line in context.artifacts.lines(objects.invalid(manifest.staged)))

        def write_each() -> Iterator[ImageOutcome]:
            for outcome in outcomes:
                file = results if isinstance(outcome, ImageResult) else errors
                file.write(outcome.model_dump_json().encode() + b"\n")
                yield outcome

        for key, pieces in gallery_pages(objects, write_each()):
            with spool() as page:
                page.writelines(map(str.encode, pieces))
                _put(context, key, "text/html; charset=utf-8", page)
        _put(context, objects.results, "application/x-ndjson", results)
        _put(context, objects.errors, "application/x-ndjson", errors)


def _put(context: Context, key: str, content_type: str, file: IO[bytes]) -> None:
    file.seek(0)
    context.artifacts.put(key, file, content_type=content_type)
