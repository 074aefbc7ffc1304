"""The command `doctor`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from pipeline.cli.exits import OK, OUR_FAULT
from pipeline.cli.options import AsJson
from pipeline.cli.table import console
from pipeline.client.doctor import Verdict, examine
from pipeline.process.redact import redacted

_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.MISSING: "yellow", Verdict.WRONG: "red"}


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(doctor)


def doctor(
    deployment: Annotated[
        bool,
        typer.Option("--deployment", help="Look only at the deployment, and not at what is installed here."),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Check everything that Tessera depends on, and say what to do about whatever is missing.

    The exit code is 1 if something that is configured does not work. Something that is only not installed here is no
    error.
    """
    found = examine(installation=not deployment)
    if as_json:
        sys.stdout.write(redacted(json.dumps([finding.as_dict() for finding in found])) + "\n")
    else:
        titles = ("", "what", "found", "what to do")
        table = Table(*(Column(title, overflow="fold") for title in titles), box=None, pad_edge=False)
        for finding in found:
            colour = _COLOURS[finding.verdict]
            cells = (escape(redacted(text)) for text in (finding.what, finding.found, finding.advice))
            table.add_row(f"[{colour}]{finding.verdict.value}[/]", *cells)
        console().print(table)
    return OUR_FAULT if any(finding.verdict is Verdict.WRONG for finding in found) else OK
