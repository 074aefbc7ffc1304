"""Commands that read a prompt set: `submit`, `validate`, `estimate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pipeline.cli.counts import counted, rows_and_images
from pipeline.cli.exits import OK
from pipeline.cli.follow import follow
from pipeline.cli.json_out import write_json
from pipeline.cli.options import (
    AsJson,
    BatchSeed,
    Comments,
    ExtraColumns,
    File,
    InFormat,
    Label,
    Priority,
    SkipInvalid,
    Tenant,
    Timeout,
    Watch,
    WebhookEvents,
)
from pipeline.cli.picture_options import with_picture
from pipeline.client.client import Client
from pipeline.client.connect import Connection, connect
from pipeline.client.progress import duration
from pipeline.deployment.announcement import Deployment
from pipeline.errors import SHOWN_ERRORS, RowWarning, SettingsError
from pipeline.inputs.gathered import InputPictures
from pipeline.operations.estimate import Estimate
from pipeline.operations.prompt_files import put_prompt_file
from pipeline.operations.submit import TIMEOUT_S, Submission, from_here
from pipeline.operations.webhooks import webhooks_of
from pipeline.outputs.download import check_download
from pipeline.outputs.pictures import open_prompts
from pipeline.promptset.decisions.levels import unreached_lines
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.promptset.fields.row import Options
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import folders_of
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.labels import parsed_labels

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (submit, validate, estimate, put):
        app.command()(command)


@with_picture
def submit(
    file: File,
    picture: Options,
    overrides: Options,
    input_format: InFormat = None,
    comments: Comments = False,
    extra_columns: ExtraColumns = None,
    batch_id: Annotated[
        str | None, typer.Option(help="Your own id; submitting under it again changes nothing.")
    ] = None,
    batch_seed: BatchSeed = None,
    label: Label = None,
    tenant: Tenant = "default",
    priority: Priority = 5,
    skip_invalid: SkipInvalid = False,
    webhook: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Send what becomes of it there; may be repeated.")
    ] = None,
    webhook_event: WebhookEvents = None,
    watch: Watch = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Wait, then download into this folder.")] = None,
    timeout: Timeout = None,
    submit_timeout: Annotated[
        float, typer.Option(help="Seconds that Redis and S3 may take to accept it; validating is not counted.")
    ] = TIMEOUT_S,
    as_json: AsJson = False,
) -> int:
    """Submit a prompt set. It is accepted as a whole, or refused with a list of everything that is wrong with it."""
    if output:
        check_download(output, batch_id)
    client = Client()
    accepted = client.accept(
        from_here(
            Submission(
                prompts=file,
                defaults=picture,
                overrides=overrides,
                labels=parsed_labels(label or []),
                webhooks=webhooks_of(webhook or (), webhook_event or ()),
                batch_id=batch_id,
                tenant=tenant,
                priority=priority,
                seed=batch_seed,
                skip_invalid=skip_invalid,
                timeout_s=submit_timeout,
                input_format=input_format,
                reading=ReadOptions(comments=comments, extra_columns=extra_columns),
            )
        )
    )
    manifest = accepted.manifest
    _show_warnings(accepted.warnings)
    batch = client.batch(manifest.id)
    if as_json:
        write_json(
            {"batch": manifest.id, "rows": manifest.rows, "images": manifest.images, "created": accepted.created}
            | _unreached(manifest.unreached)
        )
    elif watch or output:
        typer.echo(f"batch {manifest.id}: {rows_and_images(manifest.rows, manifest.images)}", err=True)
    else:
        what = "accepted" if accepted.created else "accepted before, nothing changed"
        typer.echo(f"{manifest.id}  {what}: {rows_and_images(manifest.rows, manifest.images)}")
        typer.echo(f"follow it with: tessera watch {manifest.id}", err=True)
    _print_unreached(manifest.unreached, manifest.rows)
    if manifest.invalid_rows:
        typer.echo(f"{_left_out(manifest.invalid_rows)}; errors.jsonl will list them", err=True)
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
    overrides: Options,
    input_format: InFormat = None,
    comments: Comments = False,
    extra_columns: ExtraColumns = None,
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> int:
    """Check a prompt set without submitting it; exit code 2 if a row is invalid.

    With --skip-invalid it says which rows `submit --skip-invalid` would leave out, and exits with 2 if none is left.

    Limits and models are those of the deployment that the settings name. Without settings, rows are checked only
    for what every deployment requires.
    """
    connection: Connection | None = None
    try:
        connection = connect()
        deployment, where = connection.ledger.deployment(), "the deployment"
    except SettingsError:
        deployment, where = Deployment.any(), "any deployment (none is configured, so models are not checked)"
    reading = ReadOptions(comments=comments, extra_columns=extra_columns)
    bucket = connection.artifacts if connection else None
    source = open_prompts(file, input_format=input_format, bucket=bucket, models=deployment.models, options=reading)
    found = Validation(source.name)
    if skip_invalid:
        found.most_invalid = deployment.max_rows
    found.inputs = InputPictures(folders_of(file), bucket)
    for _row in resolved_rows(source, picture, deployment, found, batch_seed=0, overrides=overrides):
        pass
    found.raise_if_refused(skip_invalid=skip_invalid)
    _show_warnings(found.warnings)
    for error in found.errors[:SHOWN_ERRORS]:
        typer.echo(f"left out: {error}", err=True)
    if found.invalid > SHOWN_ERRORS:
        typer.echo(f"and {found.invalid - SHOWN_ERRORS:,} more errors", err=True)
    if as_json:
        counts = {"rows": found.rows, "images": found.images, "invalid_rows": found.invalid_rows}
        warnings = [str(one) for one in found.warnings]
        write_json(counts | {"warnings": warnings, "checked_against": where} | _unreached(found.unreached))
    else:
        left_out = f"{_left_out(found.invalid_rows)}, " if found.invalid_rows else ""
        typer.echo(f"{file}: {rows_and_images(found.rows, found.images)}, {left_out}valid for {where}")
    _print_unreached(found.unreached, found.rows)
    return OK


def _show_warnings(warnings: Iterable[RowWarning]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def _left_out(rows: int) -> str:
    return f"{counted(rows, 'invalid row')} left out"


@with_picture
def estimate(
    file: File,
    picture: Options,
    overrides: Options,
    input_format: InFormat = None,
    comments: Comments = False,
    extra_columns: ExtraColumns = None,
    pods: Annotated[
        int | None,
        typer.Option(min=1, help="Pods that run at the same time; by default, as many as workers have room for."),
    ] = None,
    skip_invalid: SkipInvalid = False,
    as_json: AsJson = False,
) -> int:
    """Estimate what a prompt set would cost, before anything runs: images, GPU hours, wall time, bytes.

    The estimate is based on the jobs that this deployment has finished, by model, size, layout and GPU. Until the
    first one has finished it is based on published figures, and says so.
    """
    found = Client().estimate(
        file,
        pods=pods,
        input_format=input_format,
        reading=ReadOptions(comments=comments, extra_columns=extra_columns),
        skip_invalid=skip_invalid,
        override=cast("PictureFields", overrides.explicit_values()),
        **picture.explicit_values(),
    )
    typer.echo(found.model_dump_json() if as_json else "\n".join(_lines(found)))
    return OK


def put(
    file: Annotated[Path, typer.Argument(help="Prompt set.", show_default=False)],
    url: Annotated[
        str | None, typer.Argument(help="s3://BUCKET/KEY; by default prompts/NAME in the deployment's bucket.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Copy a prompt set into a bucket, for a schedule to read at each firing; over what may be there."""
    target = put_prompt_file(connect().artifacts, file, url)
    if as_json:
        write_json({"url": target})
    else:
        typer.echo(target)
    return OK


def _unreached(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"unreached": dict(counts)} if counts else {}


def _print_unreached(counts: Mapping[str, int], rows: int) -> None:
    for line in unreached_lines(counts, rows):
        typer.echo(line, err=True)


def _lines(found: Estimate) -> list[str]:
    pods = f"{counted(found.pods, 'pod')} of {counted(found.gpus, 'GPU')} at a time"
    return [
        *([_left_out(found.left_out)] if found.left_out else []),
        f"{counted(found.images, 'image')} in {counted(found.jobs, 'job')}, about {_bytes(found.bytes)}",
        f"{found.gpu_hours:,.2f} GPU hours; {duration(found.wall_s)} with {pods}",
        f"of that, {found.idle_s / max(1e-9, found.idle_s + found.render_s):.0%} is pods that start, load and end",
        *(f"  {'learned' if found.learned else 'not learned'}: {line}" for line in found.basis),
    ]


def _bytes(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"
