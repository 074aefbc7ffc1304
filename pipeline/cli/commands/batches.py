"""Commands about batches: from `submit` over `status` and `retry` to `download`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.exits import INTERRUPTED, OK
from pipeline.cli.picture_options import with_picture
from pipeline.client.batch import Batch
from pipeline.client.client import Client
from pipeline.client.connect import Connection, connect
from pipeline.client.progress import event, summary
from pipeline.client.rate import Tempo
from pipeline.deployment.announcement import AllowedLora, AllowedModel, Deployment
from pipeline.deployment.layouts import Layout
from pipeline.errors import SettingsError
from pipeline.operations.status import BatchStatus
from pipeline.operations.submit import TIMEOUT_S, Submission
from pipeline.promptset.formats import InputFormat
from pipeline.promptset.row import Options
from pipeline.promptset.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.states import BatchState, ImageState

BatchId = Annotated[str, typer.Argument(help="Id of a batch.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
Timeout = Annotated[float | None, typer.Option(help="Give up waiting after so many seconds (exit code 5).")]

File = Annotated[
    str,
    typer.Argument(
        help="Prompt set: .jsonl, .csv or .txt, also .gz or .zst; a path, s3://BUCKET/KEY, or - for standard input.",
        show_default=False,
    ),
]
InFormat = Annotated[InputFormat | None, typer.Option(help="What the prompt set is, where its name does not say so.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (submit, validate, status, watch, list_batches, cancel, pause, unpause, retry, resume, download):
        name = "list" if command is list_batches else command.__name__
        app.command(name)(command)


@with_picture
def submit(
    file: File,
    picture: Options,
    input_format: InFormat = None,
    batch_id: Annotated[str | None, typer.Option(help="Your own id; submitting it again changes nothing.")] = None,
    seed: Annotated[int | None, typer.Option(help="Batch seed, from which rows without a seed get theirs.")] = None,
    tenant: Annotated[str, typer.Option(help="Who shares fairly with whom.")] = "default",
    priority: Annotated[int, typer.Option(help="0 is served first, 9 last.")] = 5,
    skip_invalid: Annotated[bool, typer.Option(help="Leave invalid rows out instead of refusing them all.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Wait, show progress, exit as `watch` does.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Wait, then download to here.")] = None,
    timeout: Timeout = None,
    submit_timeout: Annotated[
        float, typer.Option(help="Give up if Redis and S3 take longer to accept it; validating is not counted.")
    ] = TIMEOUT_S,
    as_json: AsJson = False,
) -> int:
    """Submit a prompt set. It is accepted as a whole, or refused with everything that is wrong with it."""
    client = Client()
    accepted = client.accept(
        Submission(
            prompts=file,
            defaults=picture,
            batch_id=batch_id,
            tenant=tenant,
            priority=priority,
            seed=seed,
            skip_invalid=skip_invalid,
            timeout_s=submit_timeout,
            input_format=input_format,
        )
    )
    manifest = accepted.manifest
    batch = client.batch(manifest.id)
    if as_json:
        _write({"batch": manifest.id, "rows": manifest.rows, "images": manifest.images, "created": accepted.created})
    elif watch or output:
        typer.echo(f"batch {manifest.id}: {manifest.rows} rows, {manifest.images} images", err=True)
    else:
        what = "accepted" if accepted.created else "accepted before, nothing changed"
        typer.echo(f"{manifest.id}  {what}: {manifest.rows} rows, {manifest.images} images")
        typer.echo(f"follow it with: tessera watch {manifest.id}", err=True)
    if manifest.invalid_rows:
        typer.echo(f"{manifest.invalid_rows} errors in rows left out; errors.jsonl will list them", err=True)
    if not (watch or output):
        return OK
    status = follow(batch, timeout)
    if output:
        typer.echo(str(batch.download(output, progress=not as_json)), err=as_json)
    return status.exit_code


@with_picture
def validate(
    file: File,
    picture: Options,
    input_format: InFormat = None,
    as_json: AsJson = False,
) -> int:
    """Check a prompt set without submitting it; exit code 2 if a row is invalid.

    Limits and models are those of the deployment that the settings name. Without settings, only what holds for every
    deployment is checked.
    """
    connection: Connection | None = None
    try:
        connection = connect()
        deployment, where = connection.ledger.deployment(), "the deployment"
    except SettingsError:
        deployment, where = _any_deployment(), "any deployment (none is configured, so models are not checked)"
    source = open_source(file, input_format=input_format, bucket=connection.artifacts if connection else None)
    found = Validation(source.name)
    for _row in resolved_rows(source, picture, deployment, found, batch_seed=0):
        pass
    found.raise_if_refused()
    if as_json:
        _write({"rows": found.rows, "images": found.images, "checked_against": where})
    else:
        typer.echo(f"{file}: {found.rows} rows, {found.images} images, valid for {where}")
    return OK


_JOBS_SHOWN = 20


def status(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Show how a batch stands."""
    batch = Client().batch(batch_id)
    seen, jobs = batch.status(), batch.jobs()
    if as_json:
        _write(seen.as_dict() | {"under_way": [job.as_dict() for job in jobs]})
        return OK
    typer.echo(summary(seen))
    for state in ImageState:
        if seen.images[state]:
            typer.echo(f"  {seen.images[state]:>8,} {state.value}")
    if seen.invalid_rows:
        typer.echo(f"  {seen.invalid_rows:>8,} errors in rows left out")
    if seen.reason:
        typer.echo(f"  {seen.reason}")
    for job in jobs[:_JOBS_SHOWN]:
        typer.echo(f"  {job.ref} {job.state.value}, attempt {job.attempt}" + (f": {job.detail}" if job.detail else ""))
    if len(jobs) > _JOBS_SHOWN:
        typer.echo(f"  ... and more jobs under way; --json shows up to {len(jobs)}")
    return OK


def watch(batch_id: BatchId, timeout: Timeout = None, as_json: AsJson = False) -> int:
    """Follow a batch until it is finished; the exit code says how it ended: 0 all, 3 some, 4 none, 5 timed out."""
    batch = Client().batch(batch_id)
    if not as_json:
        return follow(batch, timeout).exit_code
    seen, tempo = None, Tempo()
    for seen in batch.updates(timeout):
        tempo.saw(seen.done, seen.seen_at)
        _write(event(seen, () if seen.finished else batch.jobs(), tempo))
    return seen.exit_code if seen else OK


def list_batches(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20, as_json: AsJson = False
) -> int:
    """List batches, newest first."""
    found = Client().batches(limit)
    if as_json:
        for seen in found:
            _write(seen.as_dict())
        return OK
    table = Table("batch", "state", "images", "failed", "submitted (UTC)", "took", box=None, pad_edge=False)
    for seen in found:
        table.add_row(
            seen.id,
            seen.state.value,
            f"{seen.done}/{seen.total}",
            str(seen.failed or ""),
            f"{seen.created_at:%Y-%m-%d %H:%M:%S}",
            f"{seen.elapsed_s:.0f} s",
        )
    Console().print(table)
    return OK


def cancel(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Cancel what a batch has not rendered yet; images that are committed stay."""
    _say_state(batch_id, Client().batch(batch_id).cancel(), as_json=as_json)
    return OK


def pause(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Let images that are being rendered finish, then free the GPUs; `unpause` goes on."""
    _say_state(batch_id, Client().batch(batch_id).pause(), as_json=as_json)
    return OK


def unpause(batch_id: BatchId, as_json: AsJson = False) -> int:
    """Let a paused batch go on."""
    _say_state(batch_id, Client().batch(batch_id).unpause(), as_json=as_json)
    return OK


def _say_state(batch_id: str, state: BatchState, *, as_json: bool) -> None:
    if as_json:
        _write({"batch": batch_id, "state": state.value})
    else:
        typer.echo(f"{batch_id} is {state.value}")


def retry(
    batch_id: BatchId,
    code: Annotated[
        list[str] | None, typer.Option(help="Only failures of this code, as E_POISON; may be given several times.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Wait, show progress, exit as `watch` does.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> int:
    """Render again what failed in a batch that has ended; images that are committed stay."""
    batch = Client().batch(batch_id)
    retried = batch.retry(*(code or ()))
    if as_json:
        _write({"batch": batch_id, "images": retried.images, "failed": retried.failed})
    elif retried.images:
        typer.echo(f"{batch_id} is opened again for {retried.images} images")
    else:
        there = ", ".join(f"{count} {name}" for name, count in sorted(retried.failed.items())) or "none"
        typer.echo(f"{batch_id}: nothing to retry; failures: {there}")
    if not (watch and retried.images):
        return OK
    return follow(batch, timeout).exit_code


def resume(as_json: AsJson = False) -> int:
    """Rebuild what Redis has lost from the bucket. What runs goes on; what Redis knows stays as it is."""
    resumed = Client().resume()
    if as_json:
        _write({"batches": resumed})
    elif resumed:
        typer.echo(f"taken up: {', '.join(resumed)}")
        typer.echo("the controller rebuilds them now; look with: tessera list", err=True)
    else:
        typer.echo("nothing was lost: Redis knows every batch of the bucket")
    return OK


def download(
    batch_id: BatchId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; renders/<batch id> if not given.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Bring images, results and gallery of a batch to a folder; also while it runs. A broken download goes on."""
    page = Client().batch(batch_id).download(output or Path("renders") / batch_id, progress=not as_json)
    if as_json:
        _write({"batch": batch_id, "gallery": str(page)})
    else:
        typer.echo(str(page))
    return OK


def follow(batch: Batch, timeout: float | None) -> BatchStatus:
    """Show progress until the batch is finished. Interrupted, it says that the batch goes on."""
    try:
        return batch.wait(timeout, progress=True)
    except KeyboardInterrupt:
        typer.echo(f"the batch goes on: tessera watch {batch.id}, or tessera cancel {batch.id}", err=True)
        raise typer.Exit(INTERRUPTED) from None


class _Anything(dict[str, Any]):
    """An allow-list with everything on it."""

    def __init__(self, each: Any) -> None:
        super().__init__()
        self._each = each

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, _name: str) -> Any:
        return self._each


def _any_deployment() -> Deployment:
    return Deployment.model_construct(
        version="none",
        models=_Anything(AllowedModel(revision="any", native_px=1024)),
        default_model="any",
        loras=_Anything(AllowedLora()),
        max_megapixels=float("inf"),
        max_rows=10**9,
        max_images=10**12,
        layout=Layout(1, 1, 1),
    )


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
