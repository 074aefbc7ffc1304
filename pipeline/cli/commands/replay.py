"""Commands that start from finished images: replay, extract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.exits import NONE_SUCCEEDED, OK, PARTLY
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, Timeout
from pipeline.client.client import Client
from pipeline.client.replay import Replay
from pipeline.errors import RequestError
from pipeline.outputs.extract import records_in, rows_of
from pipeline.records.results import ImageResult


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(replay)
    app.command()(extract)


def replay(
    file: Annotated[
        Path,
        typer.Argument(help="A PNG, JPEG or WebP that Tessera made, its sidecar, or its line of results.jsonl."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="Folder for the image.", show_default=True)
    ] = Path("renders/replay"),
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> int:
    """Render an image again as its record says, and show what differs: layout, versions, pixels."""
    again = Client().replay(file, timeout_s=timeout, progress=True)
    path = again.image.save(output)
    if as_json:
        write_json(_as_dict(again, path), ascii_only=not _is_utf8())
        return OK
    typer.echo(str(path))
    for difference in again.differences:
        typer.echo(f"  {difference}")
    if not again.differences:
        typer.echo("  made in the same way: layout, model revision, device and versions are the same")
    if not again.compared:
        typer.echo("  pixels: not compared, the first picture is neither in this file nor in the bucket any more")
    else:
        typer.echo(f"  pixels: {again.likeness or 'the sizes differ'}")
    return OK


def extract(
    files: Annotated[
        list[Path],
        typer.Argument(help="PNG, JPEG and WebP files that Tessera made, sidecars, results.jsonl.", show_default=False),
    ],
) -> int:
    """Write a prompt set that renders these images again, as JSON Lines, to standard output."""
    refused: list[Path] = []

    def results() -> Iterator[ImageResult]:
        for path in files:
            try:
                yield from (found.result for found in records_in(path))
            except RequestError as error:
                refused.append(path)
                typer.echo(f"left out: {error}", err=True)

    written = 0
    for row in rows_of(results()):
        write_json(row, ascii_only=not _is_utf8())
        written += 1
    if not refused:
        return OK
    return PARTLY if written else NONE_SUCCEEDED


def _as_dict(again: Replay, path: Path) -> dict[str, Any]:
    likeness = again.likeness
    return {
        "batch": again.batch_id,
        "file": str(path),
        "differences": [vars(difference) for difference in again.differences],
        "pixels": None
        if likeness is None
        else {
            "same": likeness.same,
            "psnr_db": None if likeness.same else round(likeness.psnr_db, 2),
            "largest_difference": likeness.largest,
        },
    }


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
