"""Wait for a batch where a person looks on."""

from __future__ import annotations

import typer

from pipeline.cli.exits import INTERRUPTED
from pipeline.cli.failures import print_failures
from pipeline.client.batch import Batch
from pipeline.operations.status import BatchStatus


def follow(batch: Batch, timeout_s: float | None) -> BatchStatus:
    """Show progress until the batch is finished, then why images failed.

    On Ctrl-C, say that the batch goes on, and exit.
    """
    try:
        status = batch.wait(timeout_s, progress=True)
    except KeyboardInterrupt:
        typer.echo(f"the batch goes on: tessera watch {batch.id}, or tessera cancel {batch.id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    print_failures(batch, status, err=True)
    return status
