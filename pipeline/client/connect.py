"""Find the deployment that a client means: the one that the environment names, or the stack on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.s3 import Credentials
from pipeline.client.connection import Connection
from pipeline.client.local_stack import running_stack
from pipeline.client.remote.connection import connect_remotely
from pipeline.deployment.settings import MachineSettings, load_part, load_settings
from pipeline.errors import NoneConfigured
from pipeline.ledger import Ledger
from pipeline.names import TOKEN_VARIABLE, URL_VARIABLE

__all__ = ["Connection", "connect", "connect_to_stack", "environment_of_deployment"]


def connect(environ: Mapping[str, str] | None = None) -> Connection:
    """The deployment of the environment, if it names an HTTP API or a Redis, else the local stack.

    Raises SettingsError if there is neither, or if a setting cannot be used.
    """
    environ = os.environ if environ is None else environ
    if url := environ.get(URL_VARIABLE):
        return connect_remotely(url, environ.get(TOKEN_VARIABLE, ""))
    if environ.get("TESSERA_REDIS_URL"):
        settings = load_settings(environ)
        return Connection(settings, Ledger(settings), Artifacts(settings))
    return connect_to_stack(environment_of_deployment(environ))


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
