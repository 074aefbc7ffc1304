"""Work that only one process should do at a time: the tick, the expansion and the finalization of a batch.

A lock only saves double work. What makes double work harmless is that each of these can be done twice: their writes
are guarded by revisions and their objects follow from their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import LockError, LockNotOwnedError

from pipeline.ledger.store import Store


class Locks:
    """Named locks with a time to live, so that a killed holder does not hold them for ever."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def only_one(self, name: str, ttl_s: float) -> Iterator[bool]:
        """True inside if the caller is the one; False if somebody else is at it."""
        lock = self._store.redis.lock(self._store.keys.lock(name), timeout=ttl_s, blocking=False)
        with self._store.errors():
            mine = lock.acquire()
        try:
            yield mine
        finally:
            if mine:
                try:
                    with self._store.errors():
                        lock.release()
                except (LockNotOwnedError, LockError):
                    pass  # it ran out while we worked; whoever has it now keeps it

    def due(self, name: str, every_s: float) -> bool:
        """True once in `every_s`, for one of all who ask."""
        with self._store.errors():
            return bool(
                self._store.redis.set(self._store.keys.lock(f"due-{name}"), "1", nx=True, px=int(every_s * 1000))
            )
