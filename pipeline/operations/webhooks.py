"""Webhooks as users ask for them: endpoints of a tenant, deliveries, sending again, the signing secret."""

from __future__ import annotations

import ipaddress
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import Settings
from pipeline.deployment.signing import secrets_of
from pipeline.errors import RequestError, SettingsError, UnknownWebhook
from pipeline.ledger import Ledger
from pipeline.names import checked_id
from pipeline.process.outgoing import is_allowed
from pipeline.records.webhooks import (
    EVENTS,
    Delivery,
    DeliveryState,
    Webhook,
    WebhookEndpoint,
    checked_event,
    checked_url,
    endpoint_version,
    shown_url,
)

MOST_OF_A_BATCH = 10


def webhooks_of(urls: Sequence[str], events: Sequence[str]) -> tuple[Webhook, ...]:
    """URLs and events as a user names them; no events means all. Raises RequestError."""
    if events and not urls:
        raise RequestError("events of a webhook found, and no URL; both wanted")
    try:
        wanted = tuple(dict.fromkeys(map(checked_event, events))) or EVENTS
        return tuple(Webhook(url=checked_url(url), events=wanted) for url in dict.fromkeys(urls))
    except ValueError as error:
        raise RequestError(f"webhook: {error}") from error


def checked_webhooks(given: Sequence[str | Webhook], deployment: Deployment) -> tuple[Webhook, ...]:
    """These webhooks themselves. Raises RequestError, also where none would be sent.

    Where a name leads is checked when something is sent there; an address that can be seen in the URL, here.
    """
    if not given:
        return ()
    if len(given) > MOST_OF_A_BATCH:
        raise RequestError(f"{len(given)} webhooks found; at most {MOST_OF_A_BATCH} wanted")
    if not deployment.webhooks:
        raise RequestError(
            "a webhook found, and this deployment sends none; ask whoever runs it to set TESSERA_WEBHOOK_KEY "
            "(docs/webhooks.md)"
        )
    hooks = [hook for one in given for hook in ([one] if isinstance(one, Webhook) else webhooks_of([one], ()))]
    try:
        for hook in hooks:
            _check_address(checked_url(hook.url), deployment)
            for event in hook.events:
                checked_event(event)
    except ValueError as error:
        raise RequestError(f"webhook: {error}") from error
    return tuple(hooks)


def _check_address(url: str, deployment: Deployment) -> None:
    parts = urlsplit(url)
    allowed = [ipaddress.ip_network(one) for one in deployment.webhook_networks]
    if parts.scheme == "http" and not allowed:
        raise ValueError("http:// found, https:// wanted")
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return  # a name
    if not is_allowed(address, allowed):
        raise ValueError(f"{address} is not public; whoever runs the deployment can allow its network")


def add_endpoint(
    ledger: Ledger, url: str, *, tenant: str = "default", batch_id: str | None = None, events: Sequence[str] = ()
) -> WebhookEndpoint:
    """Send the events of all batches of a tenant to this URL, or those of one batch, whosever it is.

    Raises RequestError, UnknownBatch, ServiceError.
    """
    if batch_id is not None:
        tenant = ledger.batches.get(batch_id).manifest.tenant
        if len(endpoints(ledger, tenant, batch_id=batch_id)) >= MOST_OF_A_BATCH:
            raise RequestError(f"batch {batch_id!r} has {MOST_OF_A_BATCH} webhooks already; remove one first")
    checked_id(tenant, "tenant")
    (webhook,) = checked_webhooks(webhooks_of([url], events), ledger.deployment())
    endpoint = WebhookEndpoint(
        schema_version=endpoint_version(batch_id),
        id=f"wh-{secrets.token_hex(4)}",
        tenant=tenant,
        batch_id=batch_id,
        webhook=webhook,
        created_at=ledger.now(),
    )
    ledger.webhooks.add_endpoint(endpoint)
    return endpoint


def endpoints(ledger: Ledger, tenant: str | None = None, *, batch_id: str | None = None) -> list[WebhookEndpoint]:
    """Those of a tenant, or of all, oldest first; or of one batch only."""
    return [
        one for one in ledger.webhooks.endpoints() if tenant in (None, one.tenant) and batch_id in (None, one.batch_id)
    ]


def remove_endpoint(
    ledger: Ledger, endpoint_id: str, *, tenant: str | None = None, batch_id: str | None = None
) -> None:
    """Send nothing there any more; deliveries on their way are still tried. Raises UnknownWebhook."""
    there = {one.id for one in endpoints(ledger, tenant, batch_id=batch_id)}
    if endpoint_id not in there or not ledger.webhooks.remove_endpoint(endpoint_id):
        raise UnknownWebhook(f"no webhook {endpoint_id[:60]!r}: `tessera webhook list` shows the ones there are")


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries; None is any."""

    batch_id: str | None = None
    tenant: str | None = None
    state: DeliveryState | None = None

    def wants(self, delivery: Delivery) -> bool:
        return (
            self.batch_id in (None, delivery.batch_id)
            and self.tenant in (None, delivery.tenant)
            and self.state in (None, delivery.state)
        )


def deliveries(ledger: Ledger, wanted: DeliveryFilter = DeliveryFilter(), limit: int = 50) -> list[Delivery]:
    """The newest of these deliveries, of the last seven days."""
    return list(itertools.islice(filter(wanted.wants, ledger.webhooks.newest()), limit))


def resend(ledger: Ledger, delivery_id: str, *, tenant: str | None = None) -> Delivery:
    """Send a delivery once more, now, and try for as long as a new one is. Raises UnknownWebhook."""
    before = ledger.webhooks.get(delivery_id)
    if before is None or tenant not in (None, before.tenant):
        raise UnknownWebhook(
            f"no delivery {delivery_id[:60]!r}; `tessera webhook deliveries` shows those of the last seven days"
        )
    now = ledger.now()
    after = before.model_copy(
        update={
            "state": DeliveryState.WAITING,
            "next_at": now,
            "until": now + (before.until - before.created_at),
            "created_at": now,
        }
    )
    ledger.webhooks.write(before, after)  # else it is being sent at this moment
    return after


def signing_secrets(settings: Settings, tenant: str) -> tuple[str, ...]:
    """What a receiver of this tenant's webhooks checks signatures with, the newest first. Raises SettingsError."""
    checked_id(tenant, "tenant")
    if settings.webhook_key is None:
        raise SettingsError(
            "TESSERA_WEBHOOK_KEY is not set here: secrets follow from it; ask whoever runs the deployment for yours"
        )
    return secrets_of(settings.webhook_key.get_secret_value(), tenant)


def delivery_as_dict(delivery: Delivery) -> dict[str, Any]:
    """JSON-able, without the URL's path, which may be a password."""
    shown = delivery.model_dump(mode="json", exclude={"schema_version", "url", "body"})
    return shown | {"to": shown_url(delivery.url)}


def endpoint_as_dict(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """JSON-able, likewise."""
    return {
        "id": endpoint.id,
        "tenant": endpoint.tenant,
        **({"batch": endpoint.batch_id} if endpoint.batch_id is not None else {}),
        "to": shown_url(endpoint.webhook.url),
        "events": list(endpoint.webhook.events),
        "created_at": endpoint.created_at.isoformat(),
    }
