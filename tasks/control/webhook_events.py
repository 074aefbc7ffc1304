"""What has happened to batches, handed over to their webhooks as deliveries.

What is due follows from a batch's record, its counters and what was handed over before, so it does not matter which
controller looks, when, or how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from pipeline.errors import RecordUnreadable, UnknownBatch
from pipeline.ledger.counts import Counts
from pipeline.records.batch import BatchRecord
from pipeline.records.webhooks import (
    Delivery,
    HandedOver,
    Webhook,
    WebhookEndpoint,
    WebhookEvent,
    delivery_id,
    event_body,
)
from pipeline.states import BatchState, ImageState, is_final
from tasks.process.context import Context

log = structlog.get_logger(__name__)

PROGRESS_S = 30.0
TRIED_FOR = timedelta(hours=2)

_ENDS = {
    BatchState.COMPLETED: WebhookEvent.COMPLETED,
    BatchState.FAILED: WebhookEvent.FAILED,
    BatchState.CANCELLED: WebhookEvent.CANCELLED,
}


def hand_over_events(context: Context) -> None:
    """Make deliveries of whatever has happened since the last time. Raises ServiceError."""
    webhooks = context.ledger.webhooks
    if context.settings.webhook_key is None:
        webhooks.forget(*webhooks.watched())
        return
    if context.ledger.locks.due("webhooks", PROGRESS_S):
        webhooks.watch_open()
    if not (watched := webhooks.watched()):
        return
    endpoints = webhooks.endpoints()
    for batch_id in watched:
        try:
            hand_over(context, context.ledger.batches.get(batch_id), endpoints)
        except UnknownBatch:
            webhooks.forget(batch_id)
        except RecordUnreadable as error:  # it is written again, and watched again then
            log.warning("events of a batch are put off", batch=batch_id, reason=str(error))
            webhooks.forget(batch_id)


def hand_over(context: Context, record: BatchRecord, endpoints: Sequence[WebhookEndpoint]) -> None:
    """Make deliveries of what has happened to this batch. Raises ServiceError."""
    webhooks = context.ledger.webhooks
    hooks = _hooks(record, endpoints)
    if not hooks:
        webhooks.forget(record.id)
        return
    counts = context.ledger.batches.counts(record.id)
    seen, text = webhooks.handed_over(record.id)
    if seen.of != record.manifest.staged:  # of another batch that had this id
        seen = HandedOver(of=record.manifest.staged)
    now = context.ledger.now()
    events, after = due_events(record, counts, seen, now)
    deliveries = [
        _delivery(record, counts, event, hook, now) for event in events for hook in hooks if event in hook.events
    ]
    webhooks.hand_over(
        record.id, revision=record.revision, before=text, after=after if events else seen, deliveries=deliveries
    )


def hand_over_last(context: Context, record: BatchRecord) -> None:
    """Make deliveries of what has happened to a batch that is about to be forgotten. Raises ServiceError."""
    if context.settings.webhook_key is not None:
        hand_over(context, record, context.ledger.webhooks.endpoints())


def due_events(
    record: BatchRecord, counts: Counts, seen: HandedOver, now: datetime
) -> tuple[list[WebhookEvent], HandedOver]:
    """The events that have not been handed over, in their order, and what has been once these are."""
    events: list[WebhookEvent] = []
    changes: dict[str, object] = {"accepted": True, "at": now}
    if not seen.accepted:
        events.append(WebhookEvent.ACCEPTED)
    done = _done(counts)
    if is_final(record.state):
        changes["ended"] = f"{record.state.value} {record.round}"
        changes["done"] = done
        if changes["ended"] != seen.ended:
            events.append(_ENDS[record.state])
    elif done != seen.done and (seen.at is None or now - seen.at >= timedelta(seconds=PROGRESS_S)):
        changes["done"] = done
        events.append(WebhookEvent.PROGRESS)
    return events, seen.model_copy(update=changes)


def _hooks(record: BatchRecord, endpoints: Iterable[WebhookEndpoint]) -> list[Webhook]:
    """Who is sent the events of a batch; each URL once, with the events of all who name it."""
    manifest = record.manifest
    added = [one for one in endpoints if one.tenant == manifest.tenant and one.batch_id in (None, manifest.id)]
    named = [*manifest.webhooks, *(one.webhook for one in added)]
    by_url: dict[str, set[str]] = {}
    for hook in named:
        by_url.setdefault(hook.url, set()).update(hook.events)
    return [Webhook(url=url, events=tuple(sorted(events))) for url, events in by_url.items()]


def _delivery(record: BatchRecord, counts: Counts, event: WebhookEvent, hook: Webhook, now: datetime) -> Delivery:
    manifest, done = record.manifest, _done(counts)
    which = done if event is WebhookEvent.PROGRESS else ""
    data = {
        "batch": record.id,
        "tenant": manifest.tenant,
        "state": record.state.value,
        "reason": record.reason,
        "created_at": manifest.created_at.isoformat(),
        "retries": record.round,
        "rows": manifest.rows,
        "invalid_rows": manifest.invalid_rows,
        "total": sum(counts.images.values()),
        "done": done,
        "images": {state.value: count for state, count in counts.images.items()},
        "labels": manifest.labels,
    }
    return Delivery(
        id=delivery_id(record.id, manifest.staged, record.round, event.value, which, hook.url),
        batch_id=record.id,
        tenant=manifest.tenant,
        event=event.value,
        url=hook.url,
        body=event_body(event.value, now, data),
        created_at=now,
        until=now + TRIED_FOR,
    )


def _done(counts: Counts) -> int:
    return sum(count for state, count in counts.images.items() if state not in (ImageState.QUEUED, ImageState.RUNNING))
