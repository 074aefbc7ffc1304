"""Commands about schedules: add, list, show, pause, resume, run-now, remove, history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from pipeline.cli.assignments import assigned
from pipeline.cli.counts import counted, rows_and_images
from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, BatchSeed, Comments, ExtraColumns, Override, Priority, Tenant
from pipeline.cli.table import print_table
from pipeline.cli.unreadable import print_unreadable
from pipeline.client.client import Client
from pipeline.client.schedules import FiringStatus, ScheduleStatus
from pipeline.operations.status import Unreadable
from pipeline.promptset.decisions.levels import unreached_lines
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.records.schedules.schedule import Overlap

Name = Annotated[str, typer.Argument(help="Name of a schedule.", show_default=False)]

_app = typer.Typer(
    help="Render a prompt set again and again, at times that a cron expression says.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program, under `schedule`."""
    app.add_typer(_app, name="schedule")


@_app.command()
def add(
    name: Name,
    cron: Annotated[
        str, typer.Option(help='When it fires: minute, hour, day of month, month, weekday, as in "0 2 * * *".')
    ],
    prompts: Annotated[str, typer.Option(help="s3://bucket/key of the prompt set; read again at each firing.")],
    tz: Annotated[str, typer.Option(help="Time zone of the times, such as Europe/Berlin.")] = "UTC",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="OPTION=VALUE", help="A default for its rows, such as steps=20; may be repeated."
        ),
    ] = None,
    overrides: Override = None,
    overlap: Annotated[
        Overlap,
        typer.Option(
            help="If an earlier batch runs: forbid skips the firing, allow runs both, replace cancels the old one."
        ),
    ] = Overlap.FORBID,
    catch_up: Annotated[
        bool, typer.Option("--catch-up", help="After an outage fire for each time missed, not only for the latest.")
    ] = False,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Render only rows that are new or changed since the last firing.")
    ] = False,
    vary_seed: Annotated[bool, typer.Option("--vary-seed", help="Use different seeds at each firing.")] = False,
    batch_seed: BatchSeed = None,
    tenant: Tenant = "default",
    priority: Priority = 5,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave out invalid rows instead of refusing the whole prompt set.")
    ] = False,
    comments: Comments = False,
    extra_columns: ExtraColumns = None,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="Add it although its prompts are not there yet.")
    ] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Add it paused.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Change the schedule if one of this name exists.")] = False,
    as_json: AsJson = False,
) -> int:
    """Add a schedule. Adding the same again changes nothing."""
    seen = Client().schedules.add(
        name,
        update=update,
        paused=paused,
        missing_ok=missing_ok,
        cron=cron,
        tz=tz,
        prompts=prompts,
        options=cast("PictureFields", assigned("--set", options or [])),
        overrides=cast("PictureFields", assigned("--override", overrides or [])),
        overlap=overlap,
        catch_up=catch_up,
        only_new=only_new,
        vary_seed=vary_seed,
        seed=batch_seed,
        tenant=tenant,
        priority=priority,
        skip_invalid=skip_invalid,
        comments=comments,
        extra_columns=extra_columns,
    )
    return _print_next(seen, as_json)


@_app.command("list")
def list_schedules(as_json: AsJson = False) -> int:
    """List schedules: when each fires next, in its own time zone and in UTC, and how its last firing went."""
    found = Client().schedules.list()
    if as_json:
        for seen in found:
            write_json(seen.as_dict())
        return OK
    columns = ("schedule", "cron", "next", "next (UTC)", "last", "result")
    print_table(*columns, rows=[_row(seen) for seen in found])
    print_unreadable(found)
    return OK


def _row(seen: ScheduleStatus | Unreadable) -> Sequence[str]:
    if isinstance(seen, Unreadable):
        return (seen.id, "unreadable", "", "", "", "")
    record = seen.record
    return (
        f"{record.name} (settings)" if record.declared else record.name,
        record.spec.cron,
        f"{seen.next_local:%Y-%m-%d %H:%M} {record.spec.tz}" if seen.next_local else "paused",
        f"{record.next_at:%Y-%m-%d %H:%M}" if record.next_at else "",
        f"{seen.last.firing.fire_at:%Y-%m-%d %H:%M}" if seen.last else "never",
        seen.last.result if seen.last else "",
    )


@_app.command()
def show(name: Name, as_json: AsJson = False) -> int:
    """Show everything about a schedule."""
    seen = Client().schedules.get(name)
    if as_json:
        write_json(seen.as_dict())
        return OK
    for key, value in seen.as_dict().items():
        if key != "last":
            typer.echo(f"{key + ':':<15}{value if isinstance(value, str) else json.dumps(value)}")
    typer.echo(f"{'last:':<15}{_line(seen.last) if seen.last else 'never'}")
    return OK


@_app.command()
def pause(name: Name, as_json: AsJson = False) -> int:
    """Pause a schedule: it fires no more. Batches that run go on."""
    return _print_next(Client().schedules.pause(name), as_json)


@_app.command()
def resume(name: Name, as_json: AsJson = False) -> int:
    """Resume a paused schedule. What was due while it was paused is not made up for."""
    return _print_next(Client().schedules.resume(name), as_json)


@_app.command("run-now")
def run_now(
    name: Name,
    everything: Annotated[
        bool, typer.Option("--all", help="Render all rows, also those that --only-new would leave out.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Fire a schedule once, now, even if it is paused. Its overlap rule applies."""
    batch_id = Client().schedules.run_now(name, everything=everything)
    if as_json:
        write_json({"schedule": name, "batch": batch_id})
    else:
        typer.echo(batch_id)
        typer.echo(f"see what becomes of it with: tessera schedule history {name}", err=True)
    return OK


@_app.command()
def remove(name: Name, as_json: AsJson = False) -> int:
    """Remove a schedule and its history. Its batches stay, and those that run go on."""
    Client().schedules.remove(name)
    if as_json:
        write_json({"schedule": name, "removed": True})
    else:
        typer.echo(f"{name} is removed")
    return OK


@_app.command()
def history(
    name: Name,
    limit: Annotated[int, typer.Option(help="How many firings.", min=1)] = 20,
    as_json: AsJson = False,
) -> int:
    """Show the last firings of a schedule and what became of them, newest first."""
    for seen in Client().schedules.history(name, limit):
        if as_json:
            write_json(seen.as_dict())
        else:
            typer.echo(_line(seen))
    return OK


def _print_next(seen: ScheduleStatus, as_json: bool) -> int:
    record = seen.record
    if as_json:
        write_json(seen.as_dict())
    elif record.next_at is None:
        typer.echo(f"{record.name} is paused")
    else:
        local = f"{seen.next_local:%Y-%m-%d %H:%M %Z} ({record.spec.tz}), " if record.spec.tz != "UTC" else ""
        typer.echo(f"{record.name} fires next at {local}{record.next_at:%Y-%m-%d %H:%M} UTC")
    return OK


def _line(seen: FiringStatus) -> str:
    firing = seen.firing
    parts = [f"{firing.fire_at:%Y-%m-%d %H:%M:%S} UTC", f"{seen.result:<12}", firing.id]
    if firing.images:
        parts.append(rows_and_images(firing.rows, firing.images))
    if firing.unchanged:
        parts.append(f"{counted(firing.unchanged, 'row')} unchanged")
    parts += unreached_lines(firing.unreached, firing.rows)
    if firing.replaced:
        parts.append(f"replaces {', '.join(firing.replaced)}")
    if firing.reason:
        parts.append(firing.reason)
    return "  ".join(parts)
