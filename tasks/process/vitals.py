"""Whether the worker of this container works: found from inside, and left in files whose age a kubelet's probe reads.

A probe that starts Python costs more than all else that an idle worker does, and is killed on a busy node. An outage of
Redis is no fault of the container: it stays alive, and is not ready.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.deployment.broker import celery_app
from pipeline.deployment.broker_keys import beat_lock_key
from pipeline.deployment.settings import Settings
from pipeline.errors import LedgerUnavailable
from pipeline.ledger import Ledger
from pipeline.ledger.redis_client import redis_client

log = structlog.get_logger(__name__)

REDIS_WITHIN_S = 3.0
ANSWER_WITHIN_S = 8.0
LOOK_S = 15.0
NOT_READY_S = 2.0


def works(settings: Settings, role: str, host: str) -> bool:
    """Whether the worker of this host takes work. Raises LedgerUnavailable if Redis does not answer."""
    retry = Retry(NoBackoff(), 0)
    client = redis_client(settings, connect_timeout_s=REDIS_WITHIN_S, timeout_s=REDIS_WITHIN_S, retry=retry)
    with client, Ledger(settings).store.errors():
        ticking = bool(client.exists(beat_lock_key(settings.redis_prefix)))
    if role == "beat":
        return ticking
    app = celery_app(settings)
    # A connection of our own, which is closed: one of Celery's pool would go on waiting for answers, also in processes
    # that are forked from this one.
    with app.connection_for_write() as connection:
        inspect = app.control.inspect(
            pattern=f"{role}@{host}-*", matcher="glob", timeout=ANSWER_WITHIN_S, limit=1, connection=connection
        )
        try:
            return bool(inspect.ping())
        except OperationalError as error:
            raise LedgerUnavailable(f"the broker does not answer: {error}") from error


class Vitals:
    """The files ROLE.alive and ROLE.ready of a folder, written anew while they are true."""

    def __init__(self, folder: Path, role: str, asked: Callable[[], bool]) -> None:
        """
        Args:
            folder: of the files, which only this container writes.
            role: of the worker.
            asked: whether it works; LedgerUnavailable if Redis does not answer.
        """
        self._alive, self._ready = folder / f"{role}.alive", folder / f"{role}.ready"
        self._asked = asked
        for file in (self._alive, self._ready):
            file.unlink(missing_ok=True)  # of a container before this one, in the same pod

    def look(self) -> None:
        """Ask once, and write or remove the files."""
        try:
            alive = ready = self._asked()
        except LedgerUnavailable as error:
            alive, ready = True, False
            log.info("not ready: Redis does not answer", reason=str(error))
        if alive:
            self._alive.touch()
        if ready:
            self._ready.touch()
        else:
            self._ready.unlink(missing_ok=True)

    def follow(self, stopping: threading.Event, every_s: float = LOOK_S) -> None:
        """Look now and again until the worker stops, which is not ready from then on."""
        while True:
            try:
                self.look()
            except Exception:  # a thread that ended would have a healthy container killed
                log.exception("the worker could not look at itself")
            if stopping.wait(every_s if self._ready.exists() else min(every_s, NOT_READY_S)):
                break
        self._ready.unlink(missing_ok=True)


def follow_vitals(settings: Settings, role: str, folder: Path, stopping: threading.Event) -> None:
    """Begin to follow this worker's vitals in a thread of its own."""
    vitals = Vitals(folder, role, lambda: works(settings, role, socket.gethostname()))
    threading.Thread(target=vitals.follow, args=(stopping,), name="vitals", daemon=True).start()
