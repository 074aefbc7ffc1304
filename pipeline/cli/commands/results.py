"""Commands that show the images of a batch to others: `links` and `contact-sheet`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, BatchId
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
    expires: Annotated[str, typer.Option(help="How long they work, such as 30m or 12h; 7d at most.")] = "1h",
    jsonl: Annotated[bool, typer.Option("--jsonl", "--json", help="One JSON object a line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header; no cell is read as a formula.")] = False,
) -> int:
    """Print a link to each image, which works without credentials for a while. Treat links like passwords."""
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
        Path | None, typer.Option("--output", "-o", help="PNG, JPEG or WebP file; by default BATCH.png.")
    ] = None,
    columns: Annotated[int, typer.Option(help="Images side by side.", min=1)] = 6,
    rows: Annotated[int, typer.Option(help="Rows of images on a page.", min=1)] = 8,
    as_json: AsJson = False,
) -> int:
    """Lay out the thumbnails of a batch on pages, each with its id and seed; also while the batch runs."""
    pages = Client().batch(batch_id).contact_sheets(output or Path(f"{batch_id}.png"), columns=columns, rows=rows)
    if as_json:
        write_json({"batch": batch_id, "pages": list(map(str, pages))})
    else:
        typer.echo("\n".join(map(str, pages)))
    return OK
