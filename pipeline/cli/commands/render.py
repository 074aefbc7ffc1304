"""The command `render`: one picture, now, and where it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, Timeout
from pipeline.cli.picture_options import with_picture
from pipeline.cli.ready_stack import local_stack
from pipeline.client.client import Client
from pipeline.client.connect import connect, connect_to_stack
from pipeline.errors import NoneConfigured
from pipeline.promptset.row import Options

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
        typer.Option("--output", "-o", help="File, such as hero.png, or folder; by default renders/PROMPT-SEED.png."),
    ] = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> int:
    """Render one picture and print where it is. Without a deployment, the local stack is started, and left running."""
    fields = picture.explicit_values() | overrides.explicit_values()
    image = _client().render(prompt, timeout_s=timeout, progress=not as_json, **fields)
    path = image.save(output or Path("renders") / f"{_slug(prompt)}-{image.result.seed}{image.suffix}")
    if as_json:
        write_json({"file": str(path), "seed": image.result.seed, "batch": image.result.batch_id})
    else:
        typer.echo(str(path))
    return OK


def _client() -> Client:
    try:
        return Client(connect())
    except NoneConfigured:
        pass
    typer.echo("no deployment is there: starting the local stack, which stays up (`tessera down` stops it)", err=True)
    return Client(connect_to_stack(local_stack()))


def _slug(prompt: str) -> str:
    return _SLUG.sub("-", prompt.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-") or "picture"
