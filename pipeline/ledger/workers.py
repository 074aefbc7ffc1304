"""Render workers as the controller sees them: which are alive, how many free slots each has, which are drained."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.ledger.store import Store

SILENT_AFTER_S = 15.0

ALL = "*"  # in place of a worker's name


class Drain(StrEnum):
    """What happens to the jobs of a worker that is drained."""

    FINISH = "finish"  # it sees them to their end
    HAND_OVER = "hand over"  # other workers take them at once; their pods keep running


@dataclass(frozen=True)
class Worker:
    """A render worker: its name, its free slots, how many jobs it holds, and whether it is drained."""

    name: str
    free: int
    jobs: int
    drain: Drain | None


class Workers:
    """A living worker reports several times within SILENT_AFTER_S; a silent one counts as having no free slots."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def report(self, worker: str, free_slots: int) -> None:
        """Record that this worker is alive and how many more pods it can look after."""
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.zadd(self._store.keys.workers, {worker: self._store.now().timestamp()})
            pipe.hset(self._store.keys.slots, worker, str(free_slots))
            pipe.execute()

    def leave(self, worker: str) -> None:
        """Record that this worker takes no more jobs."""
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.zrem(self._store.keys.workers, worker)
            pipe.hdel(self._store.keys.slots, worker)
            pipe.execute()

    def forget_silent(self) -> dict[str, int]:
        """Forget workers that have been silent for too long; returns the free slots of the others."""
        free, silent = self._read()
        for worker in silent:
            self.leave(worker)
        return free

    def free_slots(self) -> dict[str, int]:
        """Free slots of each living worker."""
        return self._read()[0]

    def _read(self) -> tuple[dict[str, int], list[str]]:
        """Free slots of each living worker, and those that have been silent for too long."""
        with self._store.errors():
            pipe = self._store.redis.pipeline(transaction=False)
            pipe.time()
            pipe.zrange(self._store.keys.workers, 0, -1, withscores=True)
            pipe.hgetall(self._store.keys.slots)
            pipe.hgetall(self._store.keys.draining)
            (seconds, microseconds), reports, slots, drained = pipe.execute()
        oldest = seconds + microseconds / 1e6 - SILENT_AFTER_S
        living = [worker for worker, at in reports if at > oldest]
        free = {w: 0 if w in drained or ALL in drained else _count(slots.get(w)) for w in living}
        return free, [worker for worker, at in reports if at <= oldest]

    def listing(self) -> list[Worker]:
        """Every living worker, with what it holds."""
        free = self.free_slots()
        with self._store.errors():
            drained = self._store.redis.hgetall(self._store.keys.draining)
            pipe = self._store.redis.pipeline(transaction=False)
            for ref in self._store.redis.zrange(self._store.keys.leases, 0, -1):
                pipe.hget(self._store.keys.job(ref), "worker")
            holders = pipe.execute()
        modes = {worker: drained.get(worker) or drained.get(ALL) for worker in free}
        return [
            Worker(worker, free[worker], holders.count(worker), Drain(mode) if mode else None)
            for worker, mode in modes.items()
        ]

    def drain(self, worker: str, how: Drain) -> None:
        """Give this worker (ALL: every one, also future ones) no more jobs until `undrain`."""
        with self._store.errors():
            self._store.redis.hset(self._store.keys.draining, worker, how.value)

    def undrain(self, worker: str) -> bool:
        """Let it have jobs again; False if it was not drained under this name."""
        with self._store.errors():
            return bool(self._store.redis.hdel(self._store.keys.draining, worker))

    def drained(self, worker: str) -> Drain | None:
        """Whether this worker is drained, and how."""
        with self._store.errors():
            own, everybody = self._store.redis.hmget(self._store.keys.draining, worker, ALL)
        mode = own or everybody
        return Drain(mode) if mode else None

    def hints(self, key: str) -> int:
        """How many hints wait in the broker's list until a worker takes them."""
        with self._store.errors():
            return int(self._store.redis.llen(key))


def _count(text: str | None) -> int:
    """What a worker reported; it reports again soon where something else stands there."""
    return int(text) if text is not None and text.isdecimal() else 0
