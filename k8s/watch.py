"""Watches on a deployment's Jobs and pods: they say whether anything has changed since the last list.

A watch only counts changes, it does not pass on their content: lists alone are the truth. While nothing changes, they
can be rare. If a watch is refused, expires, breaks or goes silent, lists become more frequent again, or one comes late;
none of them becomes wrong.
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
    """A watch on one kind of object, by a thread of its own that the first call of `quiet_since` starts."""

    def __init__(self, cluster: Cluster, kind: Kind, selector: str) -> None:
        self._cluster, self._kind, self._selector = cluster, kind, selector
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._open = False
        self._changed_at = float("-inf")
        self._version: str | None = None  # to go on from

    def quiet_since(self, moment: float) -> bool:
        """Whether the watch is open and has reported no change since `moment` (of time.monotonic())."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name=f"watch-{self._kind}", daemon=True)
                self._thread.start()
            return self._open and self._changed_at < moment

    def close(self) -> None:
        """Start no further watch; an open one ends with its connection."""
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
        """Watch once, until the server ends it."""
        changes = self._cluster.watch(self._kind, self._selector, self._version)
        with self._lock:
            if self._version is None:
                self._changed_at = time.monotonic()  # it does not report what changed before it was open
            self._open = True
        try:
            for change in changes:
                self._version = change.version
                if change.is_change:
                    with self._lock:
                        self._changed_at = time.monotonic()
        finally:
            with self._lock:
                self._open = False
