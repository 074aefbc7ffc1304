"""Webhooks over HTTP. Of URLs only the host is known here: with many services the path is a password."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pipeline.client.remote.connection import RemoteConnection
from pipeline.client.webhooks import Webhooks
from pipeline.records.webhooks import Delivery, DeliveryState, Webhook, WebhookEndpoint

_PATH = "/api/webhooks"


class RemoteWebhooks(Webhooks):
    """The webhooks that the token's tenant may see, and their deliveries."""

    def __init__(self, connection: RemoteConnection) -> None:
        self._api = connection.api

    def add(
        self, url: str, *, tenant: str = "default", batch_id: str | None = None, events: Sequence[str] = ()
    ) -> WebhookEndpoint:
        """Send events to this URL."""
        whose = None if tenant == "default" else tenant  # a token's own
        body = {"url": url, "tenant": whose, "batch": batch_id, "events": list(events)}
        return _endpoint(self._api.ask("POST", _PATH, body))

    def list(self, tenant: str | None = None, *, batch_id: str | None = None) -> list[WebhookEndpoint]:
        """Those of a tenant, or of one batch."""
        return [
            _endpoint(one) for one in self._api.ask("GET", _PATH, query={"tenant": tenant, "batch": batch_id})["data"]
        ]

    def remove(self, webhook_id: str) -> None:
        """Send nothing there any more. Raises UnknownWebhook."""
        self._api.ask("DELETE", f"{_PATH}/{quote(webhook_id, safe='')}")

    def deliveries(
        self,
        *,
        batch_id: str | None = None,
        tenant: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 50,
    ) -> Sequence[Delivery]:
        """The newest deliveries of the last seven days."""
        query = {"batch": batch_id, "tenant": tenant, "state": state and state.value, "limit": min(limit, 1000)}
        return [_delivery(one) for one in self._api.ask("GET", f"{_PATH}/deliveries", query=query)["data"]]

    def resend(self, delivery_id: str) -> Delivery:
        """Send a delivery once more. Raises UnknownWebhook."""
        return _delivery(self._api.ask("POST", f"{_PATH}/deliveries/{quote(delivery_id, safe='')}/resend"))

    def secrets(self, tenant: str = "default") -> tuple[str, ...]:
        """What a receiver checks signatures with, the newest first."""
        whose = None if tenant == "default" else tenant
        return tuple(self._api.ask("GET", f"{_PATH}/secret", query={"tenant": whose})["secrets"])


def _endpoint(found: Mapping[str, Any]) -> WebhookEndpoint:
    return WebhookEndpoint.model_construct(
        id=found["id"],
        tenant=found["tenant"],
        batch_id=found.get("batch"),
        webhook=Webhook.model_construct(url=found["to"], events=tuple(found["events"])),
        created_at=datetime.fromisoformat(found["created_at"]),
    )


def _delivery(found: Mapping[str, Any]) -> Delivery:
    return Delivery.model_validate({**found, "url": found["to"], "body": ""})
