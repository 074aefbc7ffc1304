"""The command `render`: one picture, now, and where it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, Timeout
from pipeline.cli.picture_options import with_picture
from pipeline.client.image import ImageInMemory, RenderedImage, check_format, check_target, format_of
from pipeline.client.local_stack import LOCK_FILE
from pipeline.client.render_here import render_here
from pipeline.client.stack_environment import unheeded
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.names import URL_VARIABLE
from pipeline.process import flock
from pipeline.process.saved import save_beside
from pipeline.promptset.fields.row import Options

_FOLDER = Path("renders")
_SLUG = re.compile(r"[^a-z0-9]+")
_SLUG_CHARACTERS = 40


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(render)


@with_picture
def render(
    prompt: Annotated[str, typer.Argument(help="What to paint.", show_default=False)],
    picture: Options,
    overrides: Options,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File, such as hero.jpg, whose ending says its format, or folder; by default renders/PROMPT-SEED.png.",
        ),
    ] = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> int:
    """Render one picture and print where it is: by the deployment if there is one, else by this machine as it is."""
    fields = picture.explicit_values() | overrides.explicit_values()
    if output:
        fields = _with_format(fields, output)
    check_target(output or _FOLDER)
    image = _rendered(prompt, fields, timeout, progress=not as_json)
    named = _FOLDER / f"{_slug(prompt)}-{image.result.seed}{image.suffix}"
    path = image.save(output) if output else save_beside(named, image.bytes())
    if as_json:
        batch = None if isinstance(image, ImageInMemory) else image.result.batch_id
        write_json({"file": str(path), "seed": image.result.seed, "batch": batch})
    else:
        typer.echo(str(path))
    return OK


def _with_format(fields: dict[str, Any], output: Path) -> dict[str, Any]:
    """The fields with the format that the file's name says. Raises RequestError if they say another."""
    if "format" in fields:
        check_format(output, fields["format"])
    named = format_of(output)
    return fields if named is None else fields | {"format": named}


def _rendered(prompt: str, fields: dict[str, Any], timeout_s: float | None, *, progress: bool) -> RenderedImage:
    """Imports the clients of Redis and S3 only where a deployment is: they take half a second."""
    folder = load_part(MachineSettings).data_dir
    if not any(map(os.environ.get, (URL_VARIABLE, "TESSERA_REDIS_URL"))) and not flock.is_held(folder / LOCK_FILE):
        for name in unheeded(os.environ):
            typer.echo(f"{name} changes nothing here: no deployment is named", err=True)
        return render_here(folder, os.environ, prompt, fields, timeout_s=timeout_s, on_news=_print_line)
    from pipeline.cli.ready_stack import local_stack
    from pipeline.client.client import Client
    from pipeline.client.connect import connect, connect_to_stack
    from pipeline.errors import NoneConfigured

    try:
        client = Client(connect())
    except NoneConfigured:  # it is coming up
        client = Client(connect_to_stack(local_stack()))
    return client.render(prompt, timeout_s=timeout_s, progress=progress, **fields)


def _print_line(line: str) -> None:
    typer.echo(line, err=True)


def _slug(prompt: str) -> str:
    return _SLUG.sub("-", prompt.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-") or "picture"
