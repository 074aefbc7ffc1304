"""In the place of the ledger: what the API answers of it. All else is refused, with what to do."""

from __future__ import annotations

from typing import Any

from pipeline.client.remote.http import HttpApi
from pipeline.deployment.announcement import Deployment
from pipeline.errors import RequestError
from pipeline.ledger import Ledger


class RemoteLedger(Ledger):
    """What the deployment announces."""

    def __init__(self, api: HttpApi) -> None:
        self._api = api

    def deployment(self) -> Deployment:
        """What this deployment renders."""
        return Deployment.model_validate(self._api.ask("GET", "/api/deployment"))

    def __getattr__(self, name: str) -> Any:
        """What only Redis has."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise RequestError(
            f"this needs credentials of the deployment's Redis, which a token of {self._api.url} does not give: run it "
            "where TESSERA_REDIS_URL and TESSERA_S3_BUCKET are set, without TESSERA_URL"
        )
