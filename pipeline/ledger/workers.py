"""Render workers as the controller sees them: who lives, and how many pods each could still look after."""

from __future__ import annotations

from pipeline.ledger.store import Store

SILENT_AFTER_S = 15.0


class Workers:
    """A worker reports a few times within SILENT_AFTER_S; one that does not has no free slots."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def report(self, worker: str, free_slots: int) -> None:
        """Say that this worker lives and how many pods it could still look after."""
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.zadd(self._store.keys.workers, {worker: self._store.now().timestamp()})
            pipe.hset(self._store.keys.slots, worker, str(free_slots))
            pipe.execute()

    def leave(self, worker: str) -> None:
        """Say that this worker takes no more jobs."""
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.zrem(self._store.keys.workers, worker)
            pipe.hdel(self._store.keys.slots, worker)
            pipe.execute()

    def forget_silent(self) -> None:
        """Forget workers that have been silent for too long."""
        with self._store.errors():
            oldest = self._store.now().timestamp() - SILENT_AFTER_S
            for worker in self._store.redis.zrangebyscore(self._store.keys.workers, "-inf", oldest):
                self.leave(worker)

    def free_slots(self) -> dict[str, int]:
        """Free slots of each living worker."""
        with self._store.errors():
            oldest = self._store.now().timestamp() - SILENT_AFTER_S
            slots = self._store.redis.hgetall(self._store.keys.slots)
            living = self._store.redis.zrangebyscore(self._store.keys.workers, f"({oldest}", "+inf")
        return {worker: int(slots.get(worker, 0)) for worker in living}
