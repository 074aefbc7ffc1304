"""Commands about what became of a batch: `links` and `contact-sheet`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.batches import AsJson, BatchId
from pipeline.cli.exits import OK
from pipeline.client.client import Client
from pipeline.errors import RequestError
from pipeline.outputs.links import csv_lines
from pipeline.process.durations import parsed_duration


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(links)
    app.command("contact-sheet")(contact_sheet)


def links(
    batch_id: BatchId,
    expires: Annotated[str, typer.Option(help="How long they work, as in 30m, 12h or 7d, which is the most.")] = "1h",
    jsonl: Annotated[bool, typer.Option("--jsonl", "--json", help="A JSON object a line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header; no cell starts a formula.")] = False,
) -> int:
    """Print a link to each image that works without credentials for a short time. Treat links as passwords."""
    if jsonl and csv:
        raise RequestError("--jsonl and --csv found; one of them wanted")
    found = Client().batch(batch_id).links(parsed_duration(expires))
    if csv:
        sys.stdout.writelines(csv_lines(found))
    else:
        sys.stdout.writelines((json.dumps(link.as_dict()) if jsonl else link.url) + "\n" for link in found)
    return OK


def contact_sheet(
    batch_id: BatchId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG, JPEG or WebP file; BATCH.png if not given.")
    ] = None,
    columns: Annotated[int, typer.Option(help="Images side by side.", min=1)] = 6,
    rows: Annotated[int, typer.Option(help="Lines of images on a page.", min=1)] = 8,
    as_json: AsJson = False,
) -> int:
    """Put the images of a batch small on pages, each with its id and seed; also while the batch runs."""
    pages = Client().batch(batch_id).contact_sheets(output or Path(f"{batch_id}.png"), columns=columns, rows=rows)
    typer.echo(
        json.dumps({"batch": batch_id, "pages": list(map(str, pages))}) if as_json else "\n".join(map(str, pages))
    )
    return OK
