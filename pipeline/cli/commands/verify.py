"""The command `verify`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from pipeline.cli.exits import OK, PARTLY
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, BatchId
from pipeline.cli.table import console
from pipeline.client.client import Client
from pipeline.operations.discrepancies import Verification


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(verify)


def verify(
    batch_id: BatchId,
    repair: Annotated[bool, typer.Option("--repair", help="Have the controller mend what is wrong.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the file of every image: its digest, its sidecar, and that it decodes.")
    ] = False,
    sample: Annotated[int, typer.Option(help="Read the files of about so many images.", min=0)] = 0,
    as_json: AsJson = False,
) -> int:
    """Compare what Redis says of a batch with what the bucket has, image by image. Exit code 3 if they differ."""
    found = Client().batch(batch_id).verify(repair=repair, deep=deep, sample=sample)
    if as_json:
        write_json(found.as_dict() | {"repair": repair and not found.ok})
    else:
        _show(found)
        if repair and not found.ok:
            typer.echo(f"the controller repairs it now; then look again: tessera verify {batch_id}", err=True)
        elif not found.ok:
            typer.echo(f"repair it: tessera verify {batch_id} --repair", err=True)
    return OK if found.ok else PARTLY


def _show(found: Verification) -> None:
    redis = found.redis.value if found.redis else "unknown"
    bucket = found.bucket.value if found.bucket else "not ended"
    typer.echo(f"{found.id}: {redis} in Redis, {bucket} in the bucket" + (", still moving" if found.moving else ""))
    proved = f"{found.succeeded} succeeded, {found.failed} failed, {found.cancelled} cancelled"
    read = f"; {found.files} files read" if found.files else ""
    typer.echo(f"  of {found.images} images the bucket proves: {proved}{read}")
    if found.ok:
        typer.echo("  nothing is wrong")
        return
    titles = ("found", "how many", "what", "harm", "a repair", "for example")
    table = Table(*(Column(title, overflow="fold") for title in titles), box=None, pad_edge=False)
    for one in found.discrepancies:
        meaning = one.meaning
        table.add_row(one.kind.value, str(one.count), meaning.says, meaning.harm.value, meaning.repair, one.examples[0])
    console().print(table)
