"""Work that only one process should do at a time: the tick, the expansion and the finalization of a batch.

A lock only saves double work. What makes double work harmless is that each of these can be done twice: their writes
are guarded by revisions and their objects follow from their inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from redis.exceptions import LockError

from pipeline.errors import LedgerUnavailable, RecordUnreadable
from pipeline.ledger.store import Store

log = structlog.get_logger(__name__)

# How long others wait after a holder was killed; a living one renews its lock for as long as its work takes.
TTL_S = 10.0
# What ends after so many times the life of a lock is none.
_MOST_TIMES = 10


class Locks:
    """Named locks that end soon after their holder does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._at_work: set[str] = set()
        self._guard = threading.Lock()

    @contextmanager
    def only_one(self, name: str, ttl_s: float = TTL_S) -> Iterator[bool]:
        """Yields True if the caller holds the lock now, False if somebody else is doing this work.

        Another thread of this process counts as somebody else for as long as it works, even if a busy machine kept it
        from renewing its lock: doing the work twice would only make the machine busier.
        """
        with self._guard:
            free = name not in self._at_work
            self._at_work.add(name)
        if not free:
            yield False
            return
        try:
            with self._locked(name, ttl_s) as mine:
                yield mine
        finally:
            with self._guard:
                self._at_work.discard(name)

    @contextmanager
    def _locked(self, name: str, ttl_s: float) -> Iterator[bool]:
        # The token is shared with the thread that renews.
        lock = self._store.redis.lock(self._store.keys.lock(name), timeout=ttl_s, blocking=False, thread_local=False)
        with self._store.errors():
            mine = lock.acquire() or (self._cleared(name, ttl_s) and lock.acquire())
        if not mine:
            yield False
            return
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(lock, ttl_s, done), name=f"lock-{name}", daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            done.set()
            renewing.join()
            try:
                with self._store.errors():
                    lock.release()
            except (LockError, LedgerUnavailable) as error:
                log.warning("lock was lost while its work was done", lock=name, reason=str(error))

    def _cleared(self, name: str, ttl_s: float) -> bool:
        """Whether what lies in the place of a lock was nobody's, and was removed.

        It ends never, or much later than any lock: somebody else wrote it, or the clock of Redis was set back since.
        """
        key = self._store.keys.lock(name)
        left_ms = self._store.redis.pttl(key)
        if left_ms != -1 and left_ms <= _MOST_TIMES * ttl_s * 1000:
            return False
        log.error("something else lay in the place of a lock, and was removed", lock=name)
        return bool(self._store.redis.delete(key))

    def _renew(self, lock: Any, ttl_s: float, done: threading.Event) -> None:
        while not done.wait(ttl_s / 3):
            try:
                with self._store.errors():
                    lock.extend(ttl_s, replace_ttl=True)
            except LockError:
                return  # somebody else has it; the release logs that
            except LedgerUnavailable:
                continue  # it may be back before the lock ends

    def due(self, name: str, every_s: float) -> bool:
        """True once in `every_s`, for one of all the processes that ask; also after Redis' clock was set back."""
        return name in self.which_due({name: every_s})

    def which_due(self, every_s: Mapping[str, float]) -> set[str]:
        """Which of these works are due, each by its own interval, as `due`."""
        (first, first_s), *others = every_s.items()
        more = [part for name, seconds in others for part in (name, int(seconds * 1000))]
        return set(self._store.run("due", *more, first=first, every_ms=int(first_s * 1000)))

    def absent_for(self, key: str, late_s: float) -> bool:
        """Whether an object has been looked for in vain for so long: until then it may only be late.

        The first look counts from now; looks that are further apart than twice that time begin anew.
        """
        if late_s <= 0:
            return True
        now_ms = int(self._store.now().timestamp() * 1000)
        name = self._store.keys.absent(key)
        with self._store.errors():
            self._store.redis.set(name, now_ms, nx=True, px=int(2000 * late_s))
            [first] = self._store.redis.mget(name)  # nothing where something else lies
            if first is None or not first.isdecimal():
                self._store.redis.delete(name)
                return False
        return now_ms - int(first) >= late_s * 1000

    def count(self, what: str, within_s: float) -> tuple[int, float]:
        """Count that this was met: how often within a time that begins with the first, and seconds since that."""
        name = self._store.keys.stumbles(what)
        try:
            with self._store.errors():
                pipe = self._store.redis.pipeline(transaction=False)
                pipe.set(name, 0, nx=True, px=int(1000 * within_s))
                pipe.incr(name)
                pipe.pttl(name)
                *_, times, left_ms = pipe.execute()
                return int(times), max(0.0, within_s - int(left_ms) / 1000)
        except RecordUnreadable:  # no number stood there
            with self._store.errors():
                self._store.redis.set(name, 1, px=int(1000 * within_s))
            return 1, 0.0

    def rest(self, name: str, seconds: float) -> None:
        """Make this work not due for so many seconds from now, whatever its interval."""
        with self._store.errors():
            self._store.redis.set(self._store.keys.rest(name), 1, px=max(1, int(seconds * 1000)))
