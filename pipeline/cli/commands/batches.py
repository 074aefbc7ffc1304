"""Commands about batches: from `status` to `download`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import complete
from pipeline.cli.counts import counted
from pipeline.cli.exits import OK
from pipeline.cli.failures import print_failures
from pipeline.cli.follow import follow
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, BatchId, Timeout, Watch
from pipeline.cli.table import print_table
from pipeline.cli.unreadable import print_unreadable
from pipeline.client.client import Client
from pipeline.client.progress import duration, event, summary
from pipeline.client.rate import Throughput
from pipeline.errors import RequestError
from pipeline.operations.listing import BatchFilter
from pipeline.operations.status import BatchStatus, Unreadable
from pipeline.process.durations import parsed_duration
from pipeline.records.labels import parsed_labels
from pipeline.states import BatchState, ImageState

_JOBS_SHOWN = 20
_MOMENT = "a date (2026-11-27), a date and time (2026-11-27T14:00, UTC unless it says otherwise), or an age (2d, 12h)"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (status, watch, list_batches, cancel, pause, unpause, priority, retry, resume, download):
        name = "list" if command is list_batches else command.__name__
        app.command(name)(command)


def status(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Show the status of a batch, and its jobs under way."""
    client = Client()
    batch, doubt = client.batch(batch_id), client.doubt()
    seen, jobs = batch.status(), batch.jobs()
    if as_json:
        groups = batch.failure_groups() if seen.failed else []
        more = {"failures": [group.as_dict() for group in groups], "ledger_doubt": doubt}
        write_json(seen.as_dict() | {"under_way": [job.as_dict() for job in jobs]} | more)
        return OK
    typer.echo(summary(seen))
    for state in ImageState:
        if seen.images[state]:
            typer.echo(f"  {seen.images[state]:>8,} {state.value}")
    if seen.invalid_rows:
        typer.echo(f"  {seen.invalid_rows:>8,} invalid rows left out")
    for line in (seen.reason, seen.repair):
        if line:
            typer.echo(f"  {line}")
    _print_doubt(doubt)
    print_failures(batch, seen)
    for job in jobs[:_JOBS_SHOWN]:
        of = f", {job.history}" if job.attempt else ""  # of one that waits before its first there is nothing to say
        typer.echo(f"  {job.ref} {job.state.value}{of}" + (f": {job.detail}" if job.detail else ""))
    if len(jobs) > _JOBS_SHOWN:
        typer.echo(f"  ... and more jobs under way; --json shows up to {len(jobs)}")
    return OK


def watch(batch_id: BatchId, timeout: Timeout = None, as_json: AsJson = False) -> int:
    """Follow a batch until it is finished. Exit code 0: all images are there; 3: some; 4: none; 5: timed out."""
    batch = Client().batch(batch_id)
    if not as_json:
        return follow(batch, timeout).exit_code
    seen, throughput = None, Throughput()
    for seen in batch.updates(timeout):
        throughput.record(seen.done, seen.seen_at)
        said = event(seen, () if seen.finished else batch.jobs(), throughput)
        if seen.finished and seen.failed:
            said["failures"] = [group.as_dict() for group in batch.failure_groups()]
        write_json(said)
    return seen.exit_code if seen else OK


def list_batches(
    limit: Annotated[int, typer.Option(help="How many batches.", min=1)] = 20,
    state: Annotated[list[BatchState] | None, typer.Option(help="Only batches in this state; may be repeated.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only batches of this tenant.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Only batches of this schedule.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only batches with this label; may be repeated.")
    ] = None,
    since: Annotated[str | None, typer.Option(help=f"Only batches submitted since {_MOMENT}.")] = None,
    until: Annotated[str | None, typer.Option(help=f"Only batches submitted before {_MOMENT}.")] = None,
    as_json: AsJson = False,
) -> int:
    """List batches, newest first: all, or those that the options name."""
    wanted = BatchFilter(
        states=frozenset(state or ()),
        tenant=tenant,
        schedule=schedule,
        labels=parsed_labels(label or []),
        since=None if since is None else _moment(since, "--since"),
        until=None if until is None else _moment(until, "--until"),
    )
    client = Client()
    found, doubt = client.batches(limit, wanted), client.doubt()
    _print_doubt(doubt)
    if as_json:
        for seen in found:
            write_json(seen.as_dict())
        return OK
    columns = ("batch", "state", "images", "failed", "cancelled", "submitted (UTC)", "took", "waits for")
    print_table(*columns, rows=[_row(seen) for seen in found])
    print_unreadable(found)
    for seen in found:
        if isinstance(seen, BatchStatus) and seen.repair:
            typer.echo(f"{seen.id}: {seen.repair}", err=True)
    return OK


def _print_doubt(doubt: str | None) -> None:
    if doubt is not None:
        typer.echo(f"the ledger {doubt}; until that is done nothing is begun, ended, purged or fired", err=True)


def _moment(text: str, flag: str) -> datetime:
    """The moment of a date, a date and time, or an age."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - parsed_duration(text)
        except RequestError as error:
            raise RequestError(f"{flag} {text[:60]!r} found; {_MOMENT} wanted") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _row(seen: BatchStatus | Unreadable) -> Sequence[str]:
    if isinstance(seen, Unreadable):
        return (seen.id, "unreadable", *[""] * 6)
    return (
        seen.id,
        seen.state.value,
        f"{seen.succeeded}/{seen.total}",
        str(seen.failed or ""),
        str(seen.cancelled or ""),
        f"{seen.created_at:%Y-%m-%d %H:%M}",
        duration(seen.elapsed_s),
        "" if seen.finished or seen.reason is None else seen.reason.removeprefix("waits for "),
    )


def cancel(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Cancel the images of a batch that are not rendered yet; committed images stay."""
    _print_state(batch_id, Client().batch(batch_id).cancel(), as_json=as_json)
    return OK


def pause(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Pause a batch: images that are being rendered finish, then its GPUs are free. `unpause` continues it."""
    _print_state(batch_id, Client().batch(batch_id).pause(), as_json=as_json)
    return OK


def unpause(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Continue a paused batch."""
    _print_state(batch_id, Client().batch(batch_id).unpause(), as_json=as_json)
    return OK


def priority(
    batch_id: BatchId,
    number: Annotated[int, typer.Argument(metavar="PRIORITY", help="0 is served first, 9 last.", show_default=False)],
    as_json: AsJson = False,
) -> int:
    """Have a batch served earlier or later; jobs that run go on."""
    Client().batch(batch_id).prioritize(number)
    if as_json:
        write_json({"batch": batch_id, "priority": number})
    else:
        typer.echo(f"{batch_id} has priority {number}")
    return OK


def _print_state(batch_id: str, state: BatchState, *, as_json: bool) -> None:
    if as_json:
        write_json({"batch": batch_id, "state": state.value})
    else:
        typer.echo(f"{batch_id} is {state.value}")


def retry(
    batch_id: BatchId,
    code: Annotated[
        list[str] | None,
        typer.Option(
            help="Only failures with this code, such as E_POISON; may be repeated.",
            autocompletion=complete.failure_codes,
        ),
    ] = None,
    watch: Watch = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> int:
    """Render again the failed images of a batch that has ended; committed images stay."""
    batch = Client().batch(batch_id)
    retried = batch.retry(*(code or ()))
    if as_json:
        write_json({"batch": batch_id, "images": retried.images, "failed": retried.failed})
    elif retried.images:
        typer.echo(f"{batch_id} is opened again for {counted(retried.images, 'image')}")
    else:
        there = ", ".join(f"{count} {name}" for name, count in sorted(retried.failed.items())) or "none"
        typer.echo(f"{batch_id}: nothing to retry; failures: {there}")
    if not (watch and retried.images):
        return OK
    return follow(batch, timeout).exit_code


def resume(as_json: AsJson = False) -> int:
    """Rebuild from the bucket what Redis has lost, or knows as it was before. Running pods go on."""
    resumed = Client().resume()
    if as_json:
        write_json({"batches": resumed})
    elif resumed:
        typer.echo(f"restored: {', '.join(resumed)}")
        typer.echo("the controller rebuilds them now; see them with: tessera list", err=True)
    else:
        typer.echo("nothing was lost: Redis knows every batch of the bucket, and how each has ended")
    return OK


def download(
    batch_id: BatchId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default renders/<batch id>.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are no earlier download of this batch.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Download images, results and gallery of a batch, also while it runs. Run it again to go on after a break.

    Exit code 3: some files could not be downloaded, and are listed; all others are there.
    """
    folder = output or Path("renders") / batch_id
    batch = Client().batch(batch_id)
    page = batch.download(folder, progress=not as_json, overwrite=overwrite)
    if as_json:
        write_json({"batch": batch_id, "gallery": str(page)})
    else:
        typer.echo(str(page))
    seen = batch.status()
    print_failures(batch, seen, err=True)
    return OK
