"""What a worker process works with: one of each, made at its start and handed to every task."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from celery import Celery

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from pipeline.records.attempt import Launcher
from tasks.process.metrics import Metrics
from tasks.process.observer import Observer


@dataclass
class Slots:
    """How many pods this worker may look after, and how many it does.

    `freed` is set when a slot has become free for which there is no job: the controller should know before one comes.
    """

    total: int
    freed: threading.Event = field(default_factory=threading.Event)
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One slot is taken inside."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    @property
    def free(self) -> int:
        """Slots that could take a job."""
        return self.total - self._busy


@dataclass(frozen=True)
class Context:
    """The deployment as this process reaches it."""

    settings: Settings
    ledger: Ledger
    artifacts: Artifacts
    launcher: Launcher
    observer: Observer
    app: Celery
    worker: str
    slots: Slots
    stopping: threading.Event
    handing_over: threading.Event = field(default_factory=threading.Event)  # drained: others take its jobs
    metrics: Metrics = field(default_factory=Metrics)
