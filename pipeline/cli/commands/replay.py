"""Commands that start from finished images: replay, extract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.exits import NONE_SUCCEEDED, OK, PARTLY
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, Timeout
from pipeline.client.client import Client
from pipeline.client.image import check_target
from pipeline.client.replay import Replay
from pipeline.outputs.pictures import picture_rows
from pipeline.promptset.formats.source import shown_path


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(replay)
    app.command()(extract)


def replay(
    file: Annotated[
        Path,
        typer.Argument(help="A PNG, JPEG or WebP with metadata, or a sidecar or line of results.jsonl of ours."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="Folder for the image.", show_default=True)
    ] = Path("renders/replay"),
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> int:
    """Render an image again as its record says, and show what differs: layout, versions, pixels."""
    check_target(output)
    again = Client().replay(file, timeout_s=timeout, progress=True)
    path = again.image.save(output)
    if as_json:
        write_json(_as_dict(again, path), ascii_only=not _is_utf8())
        return OK
    typer.echo(str(path))
    for what in again.left_out:
        typer.echo(f"  not carried over from {again.program}: {what}")
    for difference in again.differences:
        typer.echo(f"  {difference}")
    if again.then is None:
        typer.echo(f"  made by {again.program}: rendered as its metadata say, which is not the same computation")
    elif not again.differences:
        typer.echo("  made in the same way: layout, model revision, device and versions are the same")
    if not again.compared:
        typer.echo("  pixels: not compared, the first picture is neither in this file nor in the bucket any more")
    else:
        typer.echo(f"  pixels: {again.likeness or 'the sizes differ'}")
    return OK


def extract(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="PNG, JPEG and WebP files of Tessera, A1111, Forge, ComfyUI, InvokeAI, Fooocus or NovelAI, folders of "
            "them, and sidecars or results.jsonl of ours.",
            show_default=False,
        ),
    ],
) -> int:
    """Write a prompt set that renders these images again, as JSON Lines, to standard output."""
    refused: list[Path] = []

    def refuse(path: Path, why: str) -> None:
        refused.append(path)
        typer.echo(f"left out: {why}", err=True)

    written = 0
    for found in picture_rows(files, refused=refuse):
        write_json(found.row, ascii_only=not _is_utf8())
        for what in found.notes:
            typer.echo(f"{shown_path(found.path)} ({found.program}): not carried over: {what}", err=True)
        written += 1
    if not refused:
        return OK
    return PARTLY if written else NONE_SUCCEEDED


def _as_dict(again: Replay, path: Path) -> dict[str, Any]:
    likeness = again.likeness
    return {
        "batch": again.batch_id,
        "file": str(path),
        "program": again.program,
        "not_carried_over": list(again.left_out),
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
