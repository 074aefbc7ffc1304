"""Find the deployment that a client means: the one that the environment names, or the stack on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.s3 import Credentials
from pipeline.client.connection import Connection
from pipeline.client.local_stack import running_stack
from pipeline.client.remote.connection import connect_remotely
from pipeline.client.stack_environment import without_effect
from pipeline.deployment.settings import MachineSettings, load_part, load_settings
from pipeline.errors import NoneConfigured
from pipeline.ledger import Ledger
from pipeline.names import TOKEN_VARIABLE, URL_VARIABLE

__all__ = ["Connection", "connect", "connect_to_stack", "environment_of_deployment"]

log = structlog.get_logger(__name__)


def connect(environ: Mapping[str, str] | None = None) -> Connection:
    """The deployment of the environment, if it names an HTTP API or a Redis, else the local stack.

    Where none is given the process's own counts, and what of it the local stack does not heed is logged. Raises
    SettingsError if there is neither, or if a setting cannot be used.
    """
    if environ is None:
        found = connect(os.environ)
        _say_what_changes_nothing(found)
        return found
    if url := environ.get(URL_VARIABLE):
        return connect_remotely(url, environ.get(TOKEN_VARIABLE, ""))
    if environ.get("TESSERA_REDIS_URL"):
        settings = load_settings(environ)
        return Connection(settings, Ledger(settings), Artifacts(settings))
    return connect_to_stack(environment_of_deployment(environ))


def _say_what_changes_nothing(found: Connection) -> None:
    if any(map(os.environ.get, (URL_VARIABLE, "TESSERA_REDIS_URL"))):
        return
    stack = running_stack(found.settings.data_dir)
    for name in without_effect(os.environ, stack.environment) if stack is not None else ():
        log.warning("changes nothing: the local stack has its own", setting=name)


def environment_of_deployment(environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ` as a process of the deployment needs it: itself if it names a Redis, else the local stack's.

    Raises SettingsError if there is neither.
    """
    if environ.get("TESSERA_REDIS_URL"):
        return environ
    stack = running_stack(load_part(MachineSettings, environ).data_dir)
    if stack is None:
        raise NoneConfigured(
            "no deployment found: TESSERA_REDIS_URL is not set and no local stack runs; `tessera up` starts one, "
            "or set TESSERA_REDIS_URL, TESSERA_S3_BUCKET and TESSERA_S3_ENDPOINT (docs/settings.md)"
        )
    return stack.client_environment(environ)


def connect_to_stack(environment: Mapping[str, str]) -> Connection:
    """Connect to the local stack, with its own S3 key instead of the environment's."""
    settings = load_settings(environment)
    credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    return Connection(settings, Ledger(settings), Artifacts(settings, credentials))
