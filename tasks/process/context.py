"""What a worker process works with, made once when it starts and passed to every task."""

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
from pipeline.records.shards import ImageTask
from tasks.process.known_bases import KnownBases
from tasks.process.metrics import Metrics
from tasks.process.model_digests import ModelDigests
from tasks.process.observer import Observer


@dataclass
class Slots:
    """How many pods this worker may run, and how many it runs.

    `freed` is set when a slot became free and there is no job for it, so that the controller learns of it at once.
    """

    total: int
    freed: threading.Event = field(default_factory=threading.Event)
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Take one slot for the length of the block."""
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


class HeldImages:
    """The images of the jobs that this worker holds, so that it parses the shard of each once."""

    def __init__(self) -> None:
        self._by_job: dict[str, list[ImageTask] | None] = {}

    @contextmanager
    def held(self, ref: str) -> Iterator[None]:
        """Keep the images of this job for the length of the block."""
        self._by_job[ref] = None
        try:
            yield
        finally:
            self._by_job.pop(ref, None)

    def get(self, ref: str) -> list[ImageTask] | None:
        """The images of a job that is held, once they are known."""
        return self._by_job.get(ref)

    def keep(self, ref: str, images: list[ImageTask]) -> None:
        """Remember the images of a job, if it is held."""
        if ref in self._by_job:
            self._by_job[ref] = images


@dataclass(frozen=True)
class Context:
    """The deployment's settings, and this process' connections to its services."""

    settings: Settings
    ledger: Ledger
    artifacts: Artifacts
    launcher: Launcher
    observer: Observer
    app: Celery
    worker: str
    slots: Slots
    stopping: threading.Event
    handing_over: threading.Event = field(
        default_factory=threading.Event
    )  # the worker is drained: others take its jobs
    metrics: Metrics = field(default_factory=Metrics)
    images: HeldImages = field(default_factory=HeldImages)
    bases: KnownBases = field(default_factory=KnownBases)
    models: ModelDigests = field(default_factory=ModelDigests)
