"""Webhooks in the ledger: tenants' endpoints, batches whose events are to be handed over, and deliveries.

A batch that moves is `watched` from the step that moves it. One step turns what happened to it into deliveries and
remembers that (`hand_over`), so a controller that is killed has done it, or its successor does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import structlog

from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.ledger.store import Store
from pipeline.records.webhooks import Delivery, DeliveryState, HandedOver, WebhookEndpoint
from pipeline.schema import read_record

log = structlog.get_logger(__name__)

DELIVERIES_KEPT, KEPT = 50_000, timedelta(days=7)
_PAGE = 500


class WebhookRecords:
    """Endpoints, events that are due, and their deliveries."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    # Endpoints

    def add_endpoint(self, endpoint: WebhookEndpoint) -> None:
        """Add an endpoint, or replace the one of its id."""
        with self._store.errors():
            self._store.redis.hset(self._keys.endpoints, endpoint.id, endpoint.model_dump_json())

    def remove_endpoint(self, endpoint_id: str) -> bool:
        """False if there is none of this id."""
        with self._store.errors():
            return bool(self._store.redis.hdel(self._keys.endpoints, endpoint_id))

    def endpoints(self) -> list[WebhookEndpoint]:
        """All endpoints that can be read, oldest first."""
        with self._store.errors():
            found = self._store.redis.hgetall(self._keys.endpoints)
        endpoints = []
        for name, text in found.items():
            try:
                endpoints.append(read_record(WebhookEndpoint, text, what=f"webhook {name}"))
            except RecordUnreadable as error:
                log.warning("a webhook is passed over", webhook=name, reason=str(error))
        return sorted(endpoints, key=lambda one: (one.created_at, one.id))

    # Events

    def watched(self) -> list[str]:
        """Ids of the batches that have moved since their events were last handed over."""
        with self._store.errors():
            return sorted(self._store.redis.smembers(self._keys.watched))

    def watch_open(self) -> None:
        """Have every batch looked at that is not final: its progress, and moves that an earlier version wrote."""
        with self._store.errors():
            self._store.redis.sunionstore(self._keys.watched, self._keys.watched, self._keys.open)

    def forget(self, *batch_ids: str) -> None:
        """Nobody is sent anything of these batches."""
        if batch_ids:
            with self._store.errors():
                self._store.redis.srem(self._keys.watched, *batch_ids)

    def handed_over(self, batch_id: str) -> tuple[HandedOver, str]:
        """What of the batch has become deliveries, and its text as it stands.

        Where that cannot be read, nothing: a delivery has the same id again, so that it is not made twice.
        """
        key = self._keys.handed(batch_id)
        with self._store.errors():
            [text] = self._store.redis.mget(key)
            if text is None:
                self._store.redis.delete(key)  # what lies there if it is no text
                return HandedOver(), ""
        try:
            return read_record(HandedOver, text, what=f"events of {batch_id}"), text
        except RecordTooNew:
            raise
        except RecordUnreadable as error:
            log.warning("which events were handed over is not known", batch=batch_id, reason=str(error))
            return HandedOver(), text

    def hand_over(
        self, batch_id: str, *, revision: int, before: str, after: HandedOver, deliveries: Sequence[Delivery]
    ) -> bool:
        """Put these deliveries on their way and remember so, in one step.

        Args:
            revision: of the batch's record that they were made of; one that has moved on stays watched.
            before: the text that `handed_over` gave; False if it stands there no more, and nothing is done then.
        """
        records = [text for one in deliveries for text in (one.id, one.model_dump_json())]
        return bool(
            self._store.run(
                "hand_over",
                *records,
                id=batch_id,
                revision=revision,
                before=before,
                after=after.model_dump_json(),
                kept_s=int(KEPT.total_seconds()),
                most=DELIVERIES_KEPT,
            )
        )

    # Deliveries

    def due(self, limit: int = _PAGE) -> list[Delivery]:
        """Deliveries whose next attempt is due, in their order."""
        now_ms = int(self._store.now().timestamp() * 1000)
        with self._store.errors():
            ids = self._store.redis.zrangebyscore(self._keys.undelivered, "-inf", now_ms, start=0, num=limit)
        found = dict(self._read(ids))
        if gone := [one for one in ids if one not in found]:
            with self._store.errors():
                self._store.redis.zrem(self._keys.undelivered, *gone)
        return list(found.values())

    def get(self, delivery_id: str) -> Delivery | None:
        """A delivery; None if there is none, or none any more."""
        return dict(self._read([delivery_id])).get(delivery_id)

    def newest(self) -> Iterator[Delivery]:
        """All deliveries that are kept, newest first, page by page."""
        first = 0
        while True:
            with self._store.errors():
                ids = self._store.redis.zrange(self._keys.deliveries, first, first + _PAGE - 1, desc=True)
            yield from (delivery for _, delivery in self._read(ids))
            if len(ids) < _PAGE:
                return
            first += _PAGE

    def write(self, before: Delivery, after: Delivery) -> bool:
        """Write a delivery that was changed; False if it is not `before` any more, and nothing is done then."""
        waiting = after.state is DeliveryState.WAITING
        return bool(
            self._store.run(
                "write_delivery",
                id=after.id,
                state=before.state.value,
                attempts=before.attempts,
                record=after.model_dump_json(),
                due_ms=_ms(after.next_at or after.created_at) if waiting else "",
                kept_s=int(KEPT.total_seconds()),
            )
        )

    def postpone(self, delivery_ids: Sequence[str], until: datetime) -> None:
        """Try these no sooner than then; what is on its way no more stays so."""
        if delivery_ids:
            with self._store.errors():
                self._store.redis.zadd(self._keys.undelivered, dict.fromkeys(delivery_ids, _ms(until)), xx=True)

    def _read(self, ids: Sequence[str]) -> Iterator[tuple[str, Delivery]]:
        if not ids:
            return
        with self._store.errors():
            found = self._store.redis.mget([self._keys.delivery(one) for one in ids])
        for name, text in zip(ids, found, strict=True):
            if text is None:
                continue
            try:
                yield name, read_record(Delivery, text, what=f"delivery {name}")
            except RecordUnreadable as error:
                log.warning("a delivery is passed over", delivery=name, reason=str(error))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
