"""Commands about render workers: workers, drain, undrain."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.cli.table import print_table
from pipeline.client.client import Client
from pipeline.errors import RequestError

Name = Annotated[str | None, typer.Argument(metavar="WORKER", help="Name of a worker, or of its host.")]
All = Annotated[bool, typer.Option("--all", help="Every worker, also those that start later.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (workers, drain, undrain):
        app.command()(command)


def workers(as_json: AsJson = False) -> int:
    """List the render workers that are alive, and how many jobs each holds."""
    found = Client().workers()
    if as_json:
        for one in found:
            line = {"worker": one.name, "free": one.free, "jobs": one.jobs, "drain": one.drain and one.drain.value}
            write_json(line)
        return OK
    rows = [(one.name, str(one.free), str(one.jobs), one.drain.value if one.drain else "") for one in found]
    print_table("worker", "free", "jobs", "drained", rows=rows)
    return OK


def drain(
    worker: Name = None,
    everybody: All = False,
    hand_over: Annotated[
        bool, typer.Option("--hand-over", help="Hand its jobs over to other workers at once; their pods go on.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Give a worker no more jobs. It looks after the ones it has until they end; `undrain` undoes this."""
    names = Client().drain(_chosen(worker, everybody=everybody), hand_over=hand_over)
    return _print_names(names, "drained", "they are empty when `tessera workers` shows no jobs", as_json=as_json)


def undrain(worker: Name = None, everybody: All = False, as_json: AsJson = False) -> int:
    """Give a drained worker jobs again."""
    return _print_names(
        Client().undrain(_chosen(worker, everybody=everybody)), "take jobs again", None, as_json=as_json
    )


def _chosen(worker: str | None, *, everybody: bool) -> str | None:
    if (worker is None) != everybody:
        raise RequestError("name one worker, or say --all; `tessera workers` lists them")
    return worker


def _print_names(names: list[str], what: str, then: str | None, *, as_json: bool) -> int:
    if as_json:
        write_json({"workers": names})
        return OK
    typer.echo(f"{', '.join(names) or 'no worker is alive'}: {what}")
    if then:
        typer.echo(then, err=True)
    return OK
