"""What clients ask the controller to look at, without waiting for its next tick.

Batch ids in a sorted set: asked twice is there once, and one controller takes it. An entry orders nothing. What a batch
needs next follows from its record, so that whoever may write here can make a controller look, and no more.
"""

from __future__ import annotations

import structlog

from pipeline.errors import RecordUnreadable, RequestError, ServiceError
from pipeline.ledger.store import SOCKET_TIMEOUT_S, Store
from pipeline.names import checked_batch_id

log = structlog.get_logger(__name__)

# Shorter than a connection may be silent.
WAIT_S = SOCKET_TIMEOUT_S / 2

# No batch id: it has a slash.
SCHEDULES = "/schedules"


class Wakes:
    """Asked for by clients, taken by controllers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(self, what: str) -> bool:
        """Have a controller look at a batch, or at SCHEDULES; False if that cannot be asked: then the tick looks."""
        try:
            with self._store.errors():
                self._store.redis.zadd(self._store.keys.wakes, {what: 0})
        except ServiceError as error:
            log.warning("the controller is not woken; its next tick looks", reason=str(error))
            return False
        return True

    def take(self, wait_s: float = WAIT_S) -> str | None:
        """A batch id, or SCHEDULES, as soon as there is one; None if there is none within `wait_s`, or another entry.

        Raises LedgerUnavailable.
        """
        key = self._store.keys.wakes
        try:
            with self._store.errors():
                found = self._store.redis.bzpopmin(key, timeout=wait_s)
        except RecordUnreadable:
            log.warning("something else stood in the place of what clients ask for, and was removed", key=key)
            with self._store.errors():
                self._store.redis.unlink(key)
            return None
        if not found:
            return None
        what = str(found[1])
        try:
            return what if what == SCHEDULES else checked_batch_id(what)
        except RequestError as error:
            log.warning("a client asked for something that is no batch", reason=str(error))
            return None
