"""Files whose age says whether a worker's own loop turns, for a kubelet's probes: a probe that starts Python costs more
than all else that an idle worker does, and on a busy node it kills what it watches.

ROLE.alive is touched by the loop itself, so a loop that hangs stops touching it; ROLE.ready only while the worker takes
work. An outage of Redis is no fault of the container: it stays alive, and is not ready.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.signals import beat_init
from celery.worker.consumer import Consumer
from redbeat.schedulers import LUA_EXTEND_TO_SCRIPT, RedBeatScheduler, acquire_distributed_beat_lock, get_redis

PULSE_S = 5.0


class Pulse:
    """The two files of one worker; without a folder nothing is written."""

    def __init__(self, folder: Path | None, role: str) -> None:
        self._alive = folder / f"{role}.alive" if folder is not None else None
        self._ready = folder / f"{role}.ready" if folder is not None else None
        if self._ready is not None:
            self._ready.unlink(missing_ok=True)  # of a container before this one, in the same pod

    def beat(self, *, ready: bool) -> None:
        """Say that the loop turns, and whether work is taken. Raises OSError."""
        if self._alive is None or self._ready is None:
            return
        self._alive.touch()
        if ready:
            self._ready.touch()
        else:
            self._ready.unlink(missing_ok=True)


class _PulsingConsumer(Consumer):  # type: ignore[misc]
    """Touches the files from the loop that takes messages, and while it tries to reach the broker."""

    def __init__(self, *args: Any, pulse: Pulse, **kwargs: Any) -> None:
        self._pulse = pulse
        super().__init__(*args, **kwargs)

    def register_with_event_loop(self, hub: Any) -> None:
        """Called once for each connection; Celery cancels the timer when that is lost."""
        super().register_with_event_loop(hub)
        self._pulse.beat(ready=True)
        hub.timer.call_repeatedly(PULSE_S, self._pulse.beat, kwargs={"ready": True})

    def ensure_connected(self, conn: Any) -> Any:
        """Wait for the broker, which calls back at least once a second between two tries."""
        ensure: Callable[..., Any] = conn.ensure_connection

        def ensure_connection(*args: Any, callback: Callable[[], None], **kwargs: Any) -> Any:
            def called() -> None:
                self._pulse.beat(ready=False)
                callback()

            return ensure(*args, callback=called, **kwargs)

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)


class _PulsingScheduler(RedBeatScheduler):  # type: ignore[misc]
    """Touches the files at each pass, also while another beat has the lock.

    RedBeat itself waits for its lock in one call, before the first pass, where Celery swallows what is raised.
    """

    def __init__(self, *args: Any, pulse: Pulse, **kwargs: Any) -> None:
        self._pulse = pulse
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One pass; returns how many seconds to wait for the next. Raises redis.RedisError."""
        if self.lock is None and not self._take_lock():
            self._pulse.beat(ready=False)
            return float(self.max_interval)
        wait_s = float(super().tick(*args, **kwargs))
        self._pulse.beat(ready=True)
        return wait_s

    def _take_lock(self) -> bool:
        client = get_redis(self.app)
        lock = client.lock(self.lock_key, timeout=self.lock_timeout)
        lock.lua_extend = client.register_script(LUA_EXTEND_TO_SCRIPT)  # to a new end instead of by so much
        if not lock.acquire(blocking=False):
            return False
        self.lock = lock
        return True


def consumer(pulse: Pulse) -> Callable[..., Consumer]:
    """What Celery's setting `worker_consumer` takes."""
    return functools.partial(_PulsingConsumer, pulse=pulse)


def scheduler(pulse: Pulse) -> Callable[..., RedBeatScheduler]:
    """What Celery's setting `beat_scheduler` takes."""
    beat_init.disconnect(acquire_distributed_beat_lock)
    return functools.partial(_PulsingScheduler, pulse=pulse)
