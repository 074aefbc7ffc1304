"""The command `purge`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.cli.counts import counted
from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, BatchIds
from pipeline.client.client import Client
from pipeline.errors import RequestError
from pipeline.operations.purge import may_be_purged
from pipeline.operations.status import BatchStatus
from pipeline.process.durations import parsed_duration
from pipeline.states import BatchState, is_final


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(purge)


def purge(
    batch_ids: BatchIds = None,
    older_than: Annotated[
        str | None, typer.Option(help="All batches that ended longer ago than this, such as 30d.")
    ] = None,
    state: Annotated[
        list[BatchState] | None,
        typer.Option(help="With --older-than: only batches that ended in this state; may be repeated."),
    ] = None,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep images, thumbnails, results and gallery in the bucket.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> int:
    """Remove batches that have ended, and their images, from Redis and the bucket for good."""
    client = Client()
    chosen = _chosen(client, batch_ids, older_than, state)
    images = sum(status.succeeded for status in chosen.values() if status)
    what = f"{counted(len(chosen), 'batch', 'batches')} with {counted(images, 'image')}"
    if keep_images:
        what += ", which stay"
    if not as_json:
        for batch_id, status in chosen.items():
            ended = f"{status.state.value}, {counted(status.succeeded, 'image')}" if status else "what is left"
            typer.echo(f"{batch_id}  {ended}")
    if chosen and not dry_run:
        if not (yes or as_json) and not sys.stdin.isatty():
            raise RequestError(f"{what}: there is no terminal to ask on, so --yes wanted")
        if not (yes or as_json):
            typer.confirm(f"remove {what}?", abort=True, err=True)
        for batch_id in chosen:
            client.batch(batch_id).purge(keep_images=keep_images)
    if as_json:
        write_json({"batches": list(chosen), "images": images, "removed": not dry_run})
    else:
        typer.echo(f"would remove {what}" if dry_run else f"the controller removes {what}", err=True)
    return OK


def _chosen(
    client: Client, batch_ids: list[str] | None, older_than: str | None, states: list[BatchState] | None
) -> dict[str, BatchStatus | None]:
    """What is to go, each with its status; None where only the rest of an earlier purge is there."""
    if bool(batch_ids) == bool(older_than):
        raise RequestError("either ids of batches or --older-than wanted")
    if running := [state.value for state in states or () if not is_final(state)]:
        raise RequestError(f"--state {running[0]} found; a state in which a batch has ended wanted")
    if older_than:
        found = client.ended_before(parsed_duration(older_than))
        return {status.id: status for status in found if not states or status.state in states}
    if states:
        raise RequestError("--state goes with --older-than; batches named by their ids found")
    chosen = {batch_id: client.purgeable(batch_id) for batch_id in batch_ids or ()}
    if open_ := [status for status in chosen.values() if status and not may_be_purged(status.state)]:
        raise RequestError(
            f"batch {open_[0].id} is {open_[0].state.value}; a batch that has ended wanted: wait for its end "
            f"(`tessera watch {open_[0].id}`) or cancel it first. Nothing was removed"
        )
    return chosen
