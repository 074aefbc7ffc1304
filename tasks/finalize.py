"""Write the results of a batch whose jobs are all over. Doing it twice writes the same again."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator

import structlog

from pipeline.gallery import gallery_pages
from pipeline.objects import BatchObjects
from pipeline.records import BatchManifest, advance
from pipeline.results import ImageResult, Outcome, in_row_order, parsed_outcomes
from pipeline.states import BatchState
from tasks.context import Context

log = structlog.get_logger(__name__)

_IN_MEMORY_BYTES = 8 << 20


def finalize(context: Context, batch_id: str) -> None:
    """Write results.jsonl, errors.jsonl and the gallery, then the marker, then say so in the ledger."""
    with context.ledger.locks.only_one(f"finalize-{batch_id}") as mine:
        if not mine:
            return
        record = context.ledger.batches.get(batch_id)
        jobs = record.jobs
        if jobs is None or record.reopen is not None or context.ledger.jobs.any_unfinished(batch_id):
            return
        if record.state in (BatchState.IN_PROGRESS, BatchState.PAUSED):
            record = advance(record, BatchState.FINALIZING, at=context.ledger.now())
            context.ledger.batches.write(record)
        ends = {BatchState.FINALIZING: BatchState.COMPLETED, BatchState.CANCELLING: BatchState.CANCELLED}
        if record.state not in ends:
            return
        end = ends[record.state]
        objects = BatchObjects(batch_id)
        write_results(context, record.manifest, jobs)
        context.artifacts.put(objects.marker(end), b"", content_type="text/plain")
        context.ledger.batches.write(advance(record, end, at=context.ledger.now()))
        log.info("batch is over", batch=batch_id, state=end.value)


def write_results(context: Context, manifest: BatchManifest, jobs: int) -> None:
    """Results, errors and gallery from the jobs' fragments, in the order of the rows, streamed."""
    objects = BatchObjects(manifest.id)

    def outcomes() -> Iterator[Outcome]:
        fragments = (context.artifacts.lines(objects.fragment(job)) for job in range(jobs))
        return in_row_order(parsed_outcomes(itertools.chain.from_iterable(fragments)))

    succeeded = (_line(outcome) for outcome in outcomes() if isinstance(outcome, ImageResult))
    refused = (line + b"\n" for line in context.artifacts.lines(objects.invalid(manifest.staged)))
    failed = (_line(outcome) for outcome in outcomes() if not isinstance(outcome, ImageResult))
    _put(context, objects.results, "application/x-ndjson", succeeded)
    _put(context, objects.errors, "application/x-ndjson", itertools.chain(refused, failed))
    for key, pieces in gallery_pages(objects, outcomes()):
        _put(context, key, "text/html; charset=utf-8", map(str.encode, pieces))


def _line(outcome: Outcome) -> bytes:
    return outcome.model_dump_json().encode() + b"\n"


def _put(context: Context, key: str, content_type: str, lines: Iterable[bytes]) -> None:
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
        file.writelines(lines)
        file.seek(0)
        context.artifacts.put(key, file, content_type=content_type)
