"""The command `trace`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.bucket.trace import Trace, chrome_events, find_trace, in_order, summarised
from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, JobRef
from pipeline.cli.table import console
from pipeline.client.client import Client
from pipeline.client.connect import connect
from pipeline.errors import RequestError, ServiceError
from pipeline.names import parsed_job_ref
from pipeline.outputs.timeline import timeline_png
from pipeline.process.saved import save


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(trace)


def trace(
    job: JobRef,
    attempt: Annotated[
        int | None, typer.Option(help="Number of the attempt; by default the last that left a trace.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    as_json: AsJson = False,
) -> int:
    """Show where a job's time went, rank by rank, and save its timeline.

    It saves two files: one in Chrome's trace format, for ui.perfetto.dev or chrome://tracing, and the same as a PNG.
    """
    found = _found(job, attempt)
    stem = f"trace-{found.batch_id}-{found.job_index:05d}-{found.attempt}"
    files = [
        save(out / f"{stem}.json", json.dumps(chrome_events(found)).encode()),
        save(out / f"{stem}.png", timeline_png(found)),
    ]
    if as_json:
        sums = [summary.model_dump() for summary in summarised(found)]
        write_json({"files": [str(file) for file in files], "ranks": sums})
        return OK
    console().print(_table(found))
    for file in files:
        typer.echo(str(file))
    return OK


def _found(job: str, attempt: int | None) -> Trace:
    """Its trace. Raises RequestError, which says so where there is no such batch or job at all."""
    batch_id, index = parsed_job_ref(job)
    connection = connect()
    try:
        return find_trace(connection.artifacts, job, attempt)
    except RequestError:
        with suppress(ServiceError):  # Redis may be away, and traces are in the bucket
            jobs = sum(Client(connection).batch(batch_id).status().jobs.values())
            if index >= jobs:
                raise RequestError(f"job {index} of batch {batch_id!r} found; it has {jobs}, counted from 0") from None
        raise


def _table(found: Trace) -> Table:
    """A column a rank, so that eight fit a terminal of 80 characters."""
    sums = summarised(found)
    table = Table(title=f"{found.batch_id}/{found.job_index}, attempt {found.attempt}: seconds", box=None)
    table.add_column("rank")
    for summary in sums:
        table.add_column(str(summary.rank), justify="right")
    table.add_row("wall", *(f"{summary.wall_s:.2f}" for summary in sums))
    for name in in_order({name for summary in sums for name in summary.seconds}):
        table.add_row(f"  {name}", *(f"{summary.seconds.get(name, 0.0):.2f}" for summary in sums))
    table.add_row("stalled", *(f"{summary.stalled_s:.2f}" for summary in sums))
    table.add_row("busy", *(f"{summary.busy:.0%}" for summary in sums))
    if any(summary.occupancy is not None for summary in sums):
        table.add_row("slots", *(str(summary.slots) for summary in sums))
        table.add_row("occupied", *("" if s.occupancy is None else f"{s.occupancy:.0%}" for s in sums))
    table.add_row("sent, MB", *(f"{summary.sent_bytes / 1e6:.1f}" for summary in sums))
    table.add_row("peak, MB", *(f"{summary.peak_memory_bytes / 1e6:.0f}" for summary in sums))
    if any(summary.recorded or summary.refused for summary in sums):
        table.add_row("replayed kinds", *(str(summary.recorded) for summary in sums))
        table.add_row("not replayed", *(str(summary.refused) for summary in sums))
        table.add_row("recording", *(f"{summary.record_s:.2f}" for summary in sums))
    return table
