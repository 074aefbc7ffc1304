"""The command `pod`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Annotated

import typer

from pipeline.cli.exits import OUR_FAULT
from pipeline.client.connect import environment_of_deployment
from pipeline.errors import RequestError


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(pod)


def pod(
    job: Annotated[str, typer.Argument(help="BATCH/JOB, as in summer-catalogue/3.", show_default=False)],
    live: Annotated[
        bool, typer.Option("--live", help="Ask the cluster instead of building it from the record.")
    ] = False,
) -> int:
    """Print the Kubernetes Job of a job's latest attempt, as JSON that kubectl reads.

    It is built from the recorded attempt and this environment's TESSERA_POD: run it where the workers' settings are.
    """
    if live and importlib.util.find_spec("kubernetes") is None:
        raise RequestError("--live needs the Kubernetes client: pip install 'tessera-render[worker]'")
    # By name: this side imports nothing of k8s.
    command = [sys.executable, "-P", "-m", "k8s.show", job, *(["--live"] if live else [])]
    code = subprocess.run(command, env=environment_of_deployment(os.environ), check=False).returncode
    return code if code >= 0 else OUR_FAULT
