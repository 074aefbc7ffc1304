"""The deployment behind an address of the HTTP API."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from pipeline.client.connection import Connection
from pipeline.client.remote.artifacts import RemoteArtifacts
from pipeline.client.remote.http import HttpApi
from pipeline.client.remote.ledger import RemoteLedger
from pipeline.deployment.settings import Settings


@dataclass(frozen=True)
class RemoteConnection(Connection):
    """The API, and what stands in the place of ledger and artifacts. Only defaults are known of its settings."""

    api: HttpApi


def connect_remotely(url: str, token: str) -> RemoteConnection:
    """The deployment at this address. Raises SettingsError if address or token cannot be one."""
    api = HttpApi(url, token)
    return RemoteConnection(
        Settings(redis_url=SecretStr("redis://none"), s3_bucket="none"), RemoteLedger(api), RemoteArtifacts(api), api
    )
