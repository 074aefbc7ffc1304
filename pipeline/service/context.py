"""What every route needs: the deployment that is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from pipeline.bucket.artifacts import Artifacts
from pipeline.client.client import Client
from pipeline.client.connect import Connection
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger


@dataclass(frozen=True)
class Service:
    """A deployment as the service sees it. Safe to share between threads."""

    connection: Connection

    @property
    def settings(self) -> Settings:
        return self.connection.settings

    @property
    def ledger(self) -> Ledger:
        return self.connection.ledger

    @property
    def artifacts(self) -> Artifacts:
        return self.connection.artifacts

    @property
    def client(self) -> Client:
        return Client(self.connection)


async def _of_request(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_of_request)]
