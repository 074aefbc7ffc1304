"""Deliveries on their way: sent, tried again with back-off, given up after two hours.

A URL is sent one delivery at a time, in order, and what it does not take keeps no other waiting. A controller that is
killed between an answer and its record leaves the delivery due: it is sent again, with the same `webhook-id`.
"""

from __future__ import annotations

import ipaddress
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import groupby
from urllib.parse import urlsplit

import structlog

from pipeline.deployment.signing import secrets_of, signed_headers
from pipeline.errors import ServiceError
from pipeline.process.backoff import CAP_S, backoff_s
from pipeline.process.outgoing import NotSent, post
from pipeline.records.webhooks import Delivery, DeliveryState, WebhookEvent
from pipeline.version import installed_version
from tasks.control.webhook_events import hand_over_events
from tasks.process.context import Context

log = structlog.get_logger(__name__)

PAUSE_S = 1.0
FIRST_DELAY_S = 5.0
TIMEOUT_S = 15.0
URLS_AT_A_TIME = 8
_HELD_S = 60.0  # another controller may take over as often
_GONE = 410  # the receiver wants no more of it


def follow_webhooks(context: Context) -> None:
    """Hand over and send, one controller at a time, until the worker stops."""
    while not context.stopping.is_set():
        try:
            with context.ledger.locks.only_one("webhooks") as mine:
                if mine:
                    send_for(context, _HELD_S)
        except ServiceError as error:
            log.warning("webhooks wait", reason=str(error))
        except Exception:  # the thread's entry point: otherwise none would be sent any more
            log.exception("webhooks could not be sent")
        context.stopping.wait(PAUSE_S)


def send_for(context: Context, seconds: float) -> None:
    """Do so for a while. Raises ServiceError."""
    key = context.settings.webhook_key
    sending = _Sending(key.get_secret_value() if key is not None else "", time.monotonic() + seconds)
    with ThreadPoolExecutor(URLS_AT_A_TIME, thread_name_prefix="webhook") as pool:
        while time.monotonic() < sending.until and not context.stopping.is_set():
            hand_over_events(context)
            if sending.keys:
                busy = sending.urls()  # before the look: what is sent meanwhile is still due there
                by_url = sorted(context.ledger.webhooks.due(), key=lambda one: one.url)
                for url, group in groupby(by_url, key=lambda one: one.url):
                    if url not in busy and sending.begin(url):
                        pool.submit(_send_to, context, url, sorted(group, key=lambda one: one.created_at), sending)
            context.stopping.wait(PAUSE_S)


class _Sending:
    """The URLs that something is being sent to."""

    def __init__(self, keys: str, until: float) -> None:
        self.keys, self.until = keys, until
        self._urls: set[str] = set()
        self._lock = threading.Lock()

    def urls(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._urls)

    def begin(self, url: str) -> bool:
        """False if something is being sent there, or so many others wait that it had better be looked at later."""
        with self._lock:
            if url in self._urls or len(self._urls) >= 2 * URLS_AT_A_TIME:
                return False
            self._urls.add(url)
            return True

    def end(self, url: str) -> None:
        with self._lock:
            self._urls.discard(url)


def _send_to(context: Context, url: str, deliveries: Sequence[Delivery], sending: _Sending) -> None:
    try:
        deliveries = _newest_progress(context, deliveries)
        for number, delivery in enumerate(deliveries):
            if context.stopping.is_set() or time.monotonic() > sending.until:
                return
            after = send(context, delivery, sending.keys)
            if after.state is DeliveryState.WAITING and after.next_at is not None:
                context.ledger.webhooks.postpone([one.id for one in deliveries[number + 1 :]], after.next_at)
                return
    except ServiceError as error:
        log.warning("a delivery is sent again, its record could not be written", reason=str(error))
    except Exception:  # the pool's entry point: nobody would hear of it
        log.exception("a delivery could not be sent")
    finally:
        sending.end(url)


def _newest_progress(context: Context, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """These, without progress of a batch that later progress has overtaken while nobody took it."""
    newest = {one.batch_id: one.id for one in deliveries if one.event == WebhookEvent.PROGRESS}
    kept = []
    for one in deliveries:
        if one.event == WebhookEvent.PROGRESS and newest[one.batch_id] != one.id:
            after = one.model_copy(update={"state": DeliveryState.SUPERSEDED, "next_at": None})
            context.ledger.webhooks.write(one, after)
        else:
            kept.append(one)
    return kept


def send(context: Context, delivery: Delivery, keys: str) -> Delivery:
    """Send it once, signed, and record what came of it; returns the delivery as it is now. Raises ServiceError."""
    body = delivery.body.encode()
    now = context.ledger.now()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"Tessera/{installed_version()}",
        **signed_headers(secrets_of(keys, delivery.tenant), delivery.id, int(now.timestamp()), body),
    }
    allowed = [ipaddress.ip_network(one) for one in context.settings.webhook_networks]
    status, reason = None, ""
    try:
        status = post(delivery.url, body, headers, timeout_s=TIMEOUT_S, allowed=allowed)
        if not 200 <= status < 300:
            reason = f"HTTP status {status} found, 2xx wanted"
            reason += "; redirects are not followed" if 300 <= status < 400 else ""
    except NotSent as error:
        reason = str(error)
    after = _after(delivery, context, status, reason)
    context.ledger.webhooks.write(delivery, after)
    log.info(
        "webhook sent" if not reason else "webhook not taken",
        batch=delivery.batch_id,
        delivery=delivery.id,
        event_sent=delivery.event,
        host=urlsplit(delivery.url).hostname,
        state=after.state.value,
        attempts=after.attempts,
        reason=reason,
    )
    return after


def _after(delivery: Delivery, context: Context, status: int | None, reason: str) -> Delivery:
    now, attempts = context.ledger.now(), delivery.attempts + 1
    changes: dict[str, object] = {"attempts": attempts, "status": status, "reason": reason, "next_at": None}
    if not reason:
        changes["state"] = DeliveryState.DELIVERED
    elif status == _GONE or now >= delivery.until:
        changes["state"] = DeliveryState.FAILED
    else:
        delay_s = backoff_s(attempts, first_s=FIRST_DELAY_S, longest_s=CAP_S, random=random.random)
        # The last attempt is at the end of the time, not before it.
        changes["next_at"] = min(now + timedelta(seconds=delay_s), max(delivery.until, now + timedelta(seconds=1)))
    return delivery.model_copy(update=changes)
