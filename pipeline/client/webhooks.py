"""Webhooks as the Python client has them: `Client().webhooks`."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.client.connection import Connection
from pipeline.operations import webhooks
from pipeline.operations.webhooks import DeliveryFilter
from pipeline.records.webhooks import Delivery, DeliveryState, WebhookEndpoint


class Webhooks:
    """The webhooks of tenants, and what was delivered to these and to those of batches (docs/webhooks.md)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self, url: str, *, tenant: str = "default", batch_id: str | None = None, events: Sequence[str] = ()
    ) -> WebhookEndpoint:
        """Send the events of all batches of a tenant to this URL, or of one batch; no events means all of them.

        Raises RequestError, UnknownBatch.
        """
        return webhooks.add_endpoint(self._connection.ledger, url, tenant=tenant, batch_id=batch_id, events=events)

    def list(self, tenant: str | None = None, *, batch_id: str | None = None) -> list[WebhookEndpoint]:
        """The webhooks of a tenant, or of all; or those that were added to one batch."""
        return webhooks.endpoints(self._connection.ledger, tenant, batch_id=batch_id)

    def remove(self, webhook_id: str) -> None:
        """Send nothing there any more. Raises UnknownWebhook."""
        webhooks.remove_endpoint(self._connection.ledger, webhook_id)

    def deliveries(
        self,
        *,
        batch_id: str | None = None,
        tenant: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 50,
    ) -> Sequence[Delivery]:
        """The newest deliveries of the last seven days."""
        return webhooks.deliveries(self._connection.ledger, DeliveryFilter(batch_id, tenant, state), limit)

    def resend(self, delivery_id: str) -> Delivery:
        """Send a delivery once more. Raises UnknownWebhook."""
        return webhooks.resend(self._connection.ledger, delivery_id)

    def secrets(self, tenant: str = "default") -> tuple[str, ...]:
        """What a receiver checks signatures with, the newest first. Raises SettingsError where the key is not known."""
        return webhooks.signing_secrets(self._connection.settings, tenant)
