"""The command `estimate`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.commands.batches import AsJson, File, InFormat
from pipeline.cli.exits import OK
from pipeline.cli.picture_options import with_picture
from pipeline.client.client import Client
from pipeline.client.progress import duration
from pipeline.operations.estimate import Estimate
from pipeline.promptset.row import Options

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(estimate)


@with_picture
def estimate(
    file: File,
    picture: Options,
    input_format: InFormat = None,
    pods: Annotated[
        int | None, typer.Option(min=1, help="Pods at the same time; as many as workers have room for otherwise.")
    ] = None,
    skip_invalid: Annotated[bool, typer.Option(help="Leave invalid rows out instead of refusing them all.")] = False,
    as_json: AsJson = False,
) -> int:
    """Say what a prompt set would cost before anything runs: images, GPU hours, wall time, bytes.

    It rests on the jobs that this deployment has finished, by model, size, layout and GPU; before the first one on
    published figures, which it then says.
    """
    options = picture.model_dump(exclude_unset=True)
    found = Client().estimate(file, pods=pods, input_format=input_format, skip_invalid=skip_invalid, **options)
    typer.echo(found.model_dump_json() if as_json else "\n".join(_lines(found)))
    return OK


def _lines(found: Estimate) -> list[str]:
    pods = f"{found.pods} {'pod' if found.pods == 1 else 'pods'} of {found.gpus} GPUs at a time"
    rows = "row" if found.left_out == 1 else "rows"
    return [
        *([f"{found.left_out:,} invalid {rows} left out"] if found.left_out else []),
        f"{found.images:,} images in {found.jobs:,} jobs, about {_bytes(found.bytes)}",
        f"{found.gpu_hours:,.2f} GPU hours; {duration(found.wall_s)} with {pods}",
        f"of that {found.idle_s / max(1e-9, found.idle_s + found.render_s):.0%} is start, load and end of pods",
        *(f"  {'learned' if found.learned else 'not learned'}: {line}" for line in found.basis),
    ]


def _bytes(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"
