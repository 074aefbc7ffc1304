"""A local stack that is up, and whose workers take batches."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import typer

from pipeline.client.connect import connect_to_stack
from pipeline.client.local_stack import StackState, running_stack, start_stack
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.errors import NoDeployment, RequestError, ServiceError

_WORKERS_S, _POLL_S = 60.0, 0.1


def local_stack() -> dict[str, str]:
    """The environment for a client of the local stack, which is started if it is not up, and stays up."""
    folder = data_folder(None)
    state = running_stack(folder) or start_stack(folder, detached=True, on_progress=print_progress)
    wait_for_workers(state)
    return state.client_environment(os.environ)


def wait_for_workers(state: StackState) -> None:
    """Wait until the controller takes batches and a worker renders. Raises ServiceError."""
    began = time.monotonic()
    ledger = connect_to_stack(state.client_environment(os.environ)).ledger
    while True:
        try:
            ledger.deployment()
            if ledger.workers.free_slots():
                break
        except NoDeployment:
            pass  # the ledger of a stack that has just come up for the first time
        if time.monotonic() - began > _WORKERS_S:
            raise ServiceError(f"the stack's workers did not come up within {_WORKERS_S:.0f} s; see {state.logs}")
        time.sleep(_POLL_S)
    print_progress(f"workers ready ({time.monotonic() - began:.1f} s)")


def data_folder(data_dir: Path | None) -> Path:
    """The folder of a local stack: that of the option, or of the settings. Raises RequestError, SettingsError."""
    if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
        raise RequestError(f"--data-dir {data_dir} is a file; a folder wanted")
    # Of all settings only this one matters here, so the others may be missing.
    chosen: dict[str, Any] = {"data_dir": data_dir} if data_dir is not None else {}
    return load_part(MachineSettings, **chosen).data_dir


def print_progress(line: str) -> None:
    """One line of how far something is, on stderr."""
    typer.echo(f"  {line}", err=True)
