"""Prometheus metrics of one worker process, served over HTTP for scraping.

Pods do not live long enough to be scraped: their report says what they used, and the worker that finishes an attempt
counts it. The state of the ledger is read when the controller is scraped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.errors import RecordUnreadable, ServiceError
from pipeline.ledger import Ledger
from pipeline.ledger.dead_letters import Malformed
from pipeline.records.attempt import AttemptOutcome, Code
from pipeline.records.results import FailureCode, ImageOutcome, ImageResult
from pipeline.records.usage import Usage
from pipeline.states import ImageState, JobState

log = structlog.get_logger(__name__)

# An image at 1024 px takes seconds, a poster on one GPU minutes.
IMAGE_SECONDS = (0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640)


# Series by names that come from pods, and the one of all that come later.
MOST_NAMES, OTHER = 100, "other"


class Metrics:
    """What this process has counted since it started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._images = Counter("tessera_images", "Images with an outcome.", ["outcome"], registry=self.registry)
        self._image_seconds = Histogram(
            "tessera_image_seconds",
            "Encoding, denoising and decoding of an image.",
            buckets=IMAGE_SECONDS,
            registry=self.registry,
        )
        self._attempts = Counter("tessera_attempts", "Attempts that ended.", ["outcome"], registry=self.registry)
        self._names: set[tuple[Counter, str]] = set()
        self._phases = Counter(
            "tessera_phase_seconds", "Wall time of a pod's leader by phase.", ["phase"], registry=self.registry
        )
        self._gpu = Counter("tessera_gpu_seconds", "Ranks times their wall time.", registry=self.registry)
        self._stalled = Counter(
            "tessera_exposed_communication_seconds", "Computing stood still for messages.", registry=self.registry
        )
        self._exchanged = Counter("tessera_exchanged_bytes", "Sent from rank to rank.", registry=self.registry)
        self._doubts = Counter(
            "tessera_ledger_doubts", "The ledger may have been rolled back, and was verified.", registry=self.registry
        )
        self._uploaded = Counter("tessera_uploaded_bytes", "Image files put into the bucket.", registry=self.registry)

        self._dead_letters = Counter(
            "tessera_dead_letters",
            "Messages that were no hints, taken out of a queue.",
            ["reason"],
            registry=self.registry,
        )

        # Every series exists from the start, so that `increase` sees the first event of a kind as a rise from 0.
        for outcome in ("succeeded", *FailureCode):
            self._images.labels(outcome)
        for reason in Malformed:
            self._dead_letters.labels(reason.value)
        for code in Code:
            self._attempts.labels(code)

    def count_dead_letter(self, reason: Malformed) -> None:
        """Count a message that was no hint."""
        self._dead_letters.labels(reason.value).inc()

    def count_attempt(self, ended: AttemptOutcome) -> None:
        """Count an attempt, and what its pod reports to have used."""
        self._attempts.labels(ended.code.value).inc()
        usage = ended.report.usage if ended.report is not None else None
        if usage is not None:
            self._count_usage(usage)

    def _count_usage(self, usage: Usage) -> None:
        for phase, seconds in usage.seconds.items():
            self._labelled(self._phases, phase).inc(seconds)
        self._gpu.inc(usage.rank_seconds)
        self._stalled.inc(usage.stalled_s)
        self._exchanged.inc(usage.sent_bytes)

    def count_images(self, outcomes: Iterable[ImageOutcome]) -> None:
        """Count the images of a job that ended."""
        for outcome in outcomes:
            if isinstance(outcome, ImageResult):
                self._images.labels("succeeded").inc()
                self._image_seconds.observe(outcome.seconds)
                self._uploaded.inc(outcome.size_bytes)
            else:
                self._labelled(self._images, outcome.code.value).inc()

    def _labelled(self, counter: Counter, name: str) -> Counter:
        """The series of a name that a pod chose: of so many at most, each of which costs memory for good."""
        if (counter, name) not in self._names and len(self._names) >= MOST_NAMES:
            return counter.labels(OTHER)
        self._names.add((counter, name))
        return counter.labels(name)

    def count_doubt(self) -> None:
        """Count that the ledger may have been rolled back."""
        self._doubts.inc()

    def serve(self, port: int) -> None:
        """Serve metrics on this port of all addresses; if it is in use, log it and go on without."""
        try:
            start_http_server(port, registry=self.registry)
        except OSError as error:
            log.warning("metrics are not served", port=port, reason=str(error))
        else:
            log.info("metrics are served", port=port, path="/metrics")


class LedgerMetrics(Collector):
    """The ledger's state as gauges: only open batches, so that a scrape's cost does not grow with finished ones."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: otherwise registering would ask Redis."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges; while Redis cannot be reached, only that it is so."""
        up = GaugeMetricFamily("tessera_ledger_up", "1 while Redis answers.")
        try:
            found = list(self._state())
        except ServiceError as error:
            log.warning("ledger metrics unavailable", reason=str(error))
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from found

    def _state(self) -> Iterator[GaugeMetricFamily]:
        sure = not self._ledger.generations.is_in_doubt()
        yield GaugeMetricFamily("tessera_ledger_in_order", "0 while it is compared with the bucket.", value=sure)
        unfinished = self._ledger.batches.unfinished()
        images = dict.fromkeys(ImageState, 0)
        jobs = dict.fromkeys(JobState, 0)
        for batch_id in unfinished:
            try:
                counts = self._ledger.batches.counts(batch_id)
            except RecordUnreadable as error:
                log.warning("a batch is not counted", batch=batch_id, reason=str(error))
                continue
            for image_state in ImageState:
                images[image_state] += counts.images[image_state]
            for job_state in JobState:
                jobs[job_state] += counts.jobs[job_state]
        yield GaugeMetricFamily("tessera_open_batches", "Batches that are not final.", value=len(unfinished))
        yield _by_state("tessera_open_images", "Images of open batches.", images)
        yield _by_state("tessera_open_jobs", "Jobs of open batches.", jobs)
        backlog = self._ledger.leases.backlog()
        yield GaugeMetricFamily("tessera_backlog_jobs", "Jobs that a worker could claim now.", value=backlog)
        free = self._ledger.workers.free_slots()
        yield GaugeMetricFamily("tessera_workers", "Render workers that report.", value=len(free))
        yield GaugeMetricFamily(
            "tessera_free_slots", "Pods that they could still look after.", value=sum(free.values())
        )


def _by_state(name: str, text: str, counts: dict[ImageState, int] | dict[JobState, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state, count in counts.items():
        family.add_metric([state.value], count)
    return family
