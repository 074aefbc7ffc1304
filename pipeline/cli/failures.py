"""Why images of a batch failed, where a person looks on."""

from __future__ import annotations

import typer

from pipeline.client.batch import Batch
from pipeline.operations.status import BatchStatus

_MESSAGE_CHARACTERS = 300


def print_failures(batch: Batch, status: BatchStatus, *, err: bool = False) -> None:
    """For each code how many images have it, one of them with its message, and what to do; nothing if none failed."""
    if status.finished and status.reason and err:
        typer.echo(f"{status.id} {status.state.value}: {status.reason}", err=True)
    if not status.failed:
        return
    groups = batch.failure_groups()
    read = sum(group.images for group in groups)
    for group in groups:
        others = f" ({group.messages - 1:,} more messages)" if group.messages > 1 else ""
        message = " ".join(group.example.message.split())[:_MESSAGE_CHARACTERS]
        typer.echo(
            f"  {group.images:>8,} {group.code.value}, such as {group.example.custom_id}: {message}{others}", err=err
        )
        typer.echo(f"  {'':>8} what to do: {group.do}", err=err)
    if status.failed > read:
        typer.echo(f"  of {status.failed:,} failures {read:,} were read; errors.jsonl has all", err=err)
