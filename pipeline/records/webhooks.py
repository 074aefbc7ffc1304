"""Webhooks: who is sent what becomes of batches, and each delivery of an event to one of them.

An event is a JSON body in the shape of Standard Webhooks (standardwebhooks.com): `type`, `timestamp`, `data`. It holds
counts and names, never a prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field

from pipeline.names import Id
from pipeline.schema import Versioned
from pipeline.stored import Moment, Record

SCHEMA_VERSION = 1
MAX_URL_CHARACTERS = 2000

# Of an endpoint of one batch: a version that would send it the events of all cannot read it.
_OF_ONE_BATCH = 3

_URL = re.compile(r"[!-~]+")


class WebhookEvent(StrEnum):
    """What a webhook is sent about a batch. The values of newer versions are passed over."""

    ACCEPTED = "accepted"
    PROGRESS = "progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


EVENTS = tuple(one.value for one in WebhookEvent)


def checked_url(url: str) -> str:
    """The URL itself, if something can be sent there. Raises ValueError, which does not repeat it."""
    wanted = "https://HOST/PATH wanted"
    if len(url) > MAX_URL_CHARACTERS or not _URL.fullmatch(url):
        raise ValueError(f"{len(url)} characters, or some that no URL has, found; {wanted}, in at most 2000 of ASCII")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ValueError(f"scheme {parts.scheme[:20]!r} and a host that cannot be used found; {wanted}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError(f"user, password or fragment found in the URL; {wanted}; deliveries are signed instead")
    return url


def checked_event(event: str) -> str:
    """The name itself, if there is such an event. Raises ValueError."""
    if event not in EVENTS:
        raise ValueError(f"event {event[:40]!r} found; {', '.join(EVENTS)} wanted")
    return event


WebhookUrl = Annotated[str, AfterValidator(checked_url)]


def shown_url(url: str) -> str:
    """Where a URL leads, without path and query: with many services these are a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


class Webhook(Record):
    """A URL that is sent the events of a batch."""

    url: WebhookUrl
    events: tuple[str, ...] = Field(EVENTS, description="Which events it is sent.")


class _Record(Versioned):
    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION


class WebhookEndpoint(_Record):
    """A URL that is sent the events of all batches of a tenant, or of one of them."""

    schema_version: int = _OF_ONE_BATCH
    id: Id
    tenant: Id
    batch_id: Id | None = Field(None, exclude_if=lambda batch_id: batch_id is None)
    webhook: Webhook
    created_at: Moment


def endpoint_version(batch_id: str | None) -> int:
    """The schema version of an endpoint of this batch, or of all of a tenant's, which earlier versions know."""
    return SCHEMA_VERSION if batch_id is None else _OF_ONE_BATCH


class HandedOver(Record):
    """Which events of a batch have become deliveries."""

    of: str = Field("", description="The submission: its staged token.")
    accepted: bool = False
    ended: str = Field("", description="The last end: its state and the batch's round.")
    done: int = Field(0, description="Images with an outcome, of the last progress.")
    at: Moment | None = Field(None, description="When anything was last handed over.")


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  # nobody took it for as long as it is tried
    SUPERSEDED = "superseded"  # progress that a later one of the batch has overtaken


class Delivery(_Record):
    """An event on its way to one URL. Its id is the `webhook-id`: the same whenever it is sent again."""

    id: str
    batch_id: str
    tenant: str
    event: str
    url: str
    body: str = Field(description="JSON, sent as it stands.")
    created_at: Moment
    until: Moment = Field(description="When it is given up.")
    state: DeliveryState = DeliveryState.WAITING
    attempts: int = 0
    next_at: Moment | None = Field(None, description="When it is tried next.")
    status: int | None = Field(None, description="HTTP status of the last answer.")
    reason: str = Field("", description="Why the last attempt failed.")


def delivery_id(*parts: object) -> str:
    """The id of a delivery: it follows from submission, event and URL, so that an event made twice is one."""
    return "msg_" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def event_body(event: str, at: datetime, data: Mapping[str, object]) -> str:
    """The JSON that is sent."""
    return json.dumps({"type": f"batch.{event}", "timestamp": at.isoformat(), "data": data}, ensure_ascii=False)
