"""A hint that something moved: watches on a deployment's Jobs and pods, beside the lists that are the truth.

A watch hands on nothing of what it hears. It only tells whether a look that was taken at some moment may still be good,
so that looks become rare while nothing happens. A watch that is refused, expired, broken or silent makes looks more
frequent again, or one of them late; no look says anything else for it.
"""

from __future__ import annotations

import threading
import time

import structlog

from k8s.cluster import Cluster, Kind, WatchExpired
from pipeline.errors import ServiceError
from pipeline.process.backoff import backoff_s

PAUSE_S = 1.0  # between two watches
FIRST_BROKEN_PAUSE_S, LONGEST_PAUSE_S = 2.0, 30.0  # after one that was refused or broke

log = structlog.get_logger(__name__)


class Watch:
    """One kind of object, listened to by a thread of its own from the first question on."""

    def __init__(self, cluster: Cluster, kind: Kind, selector: str) -> None:
        self._cluster, self._kind, self._selector = cluster, kind, selector
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._open = False
        self._moved_at = float("-inf")
        self._version: str | None = None  # where to go on

    def quiet_since(self, moment: float) -> bool:
        """Whether nothing was heard to move since `moment` (as of time.monotonic()), by a watch that is open."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name=f"watch-{self._kind}", daemon=True)
                self._thread.start()
            return self._open and self._moved_at < moment

    def close(self) -> None:
        """Begin no other watch; one that is open ends with its connection."""
        self._over.set()

    def _listen(self) -> None:
        failures, pause_s = 0, PAUSE_S  # failures in a row
        while not self._over.is_set():
            try:
                self._follow()
            except WatchExpired:
                self._version = None
            except ServiceError as error:
                if not failures:
                    log.warning("watch failed, listing more often", kind=self._kind, reason=str(error))
                failures += 1
                pause_s = backoff_s(failures, first_s=FIRST_BROKEN_PAUSE_S, longest_s=LONGEST_PAUSE_S)
            else:
                failures, pause_s = 0, PAUSE_S
            self._over.wait(pause_s)

    def _follow(self) -> None:
        """One watch, until the server ends it."""
        changes = self._cluster.watch(self._kind, self._selector, self._version)
        with self._lock:
            if self._version is None:
                self._moved_at = time.monotonic()  # what went before it was open, nobody tells
            self._open = True
        try:
            for change in changes:
                self._version = change.version
                if change.moves:
                    with self._lock:
                        self._moved_at = time.monotonic()
        finally:
            with self._lock:
                self._open = False
