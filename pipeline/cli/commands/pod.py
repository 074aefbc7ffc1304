"""The command `pod`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Annotated

import typer

from pipeline.cli.exits import OUR_FAULT
from pipeline.cli.options import JobRef
from pipeline.client.connect import environment_of_deployment
from pipeline.errors import RequestError
from pipeline.names import URL_VARIABLE


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(pod)


def pod(
    job: JobRef,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the cluster for it instead of building it from the record.")
    ] = False,
) -> int:
    """Print the Kubernetes Job of a job's latest attempt, as JSON for kubectl.

    It is built from the recorded attempt and what the deployment says of its pods: any client may ask.
    """
    if live and importlib.util.find_spec("kubernetes") is None:
        raise RequestError("--live needs the Kubernetes client: pip install 'tessera-render[worker]'")
    if os.environ.get(URL_VARIABLE):
        raise RequestError(
            f"{URL_VARIABLE} found; `pod` reads Redis, which a token does not give: run it where TESSERA_REDIS_URL is "
            f"set, without {URL_VARIABLE}"
        )
    # By name: this side imports nothing of k8s.
    command = [sys.executable, "-P", "-m", "k8s.show", job, *(["--live"] if live else [])]
    code = subprocess.run(command, env=environment_of_deployment(os.environ), check=False).returncode
    return code if code >= 0 else OUR_FAULT
