"""Metrics: what is counted, what is read from the ledger, and what is served."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pipeline.deployment.settings import Settings, load_settings
from pipeline.ledger import Ledger
from pipeline.records.attempt import AttemptOutcome, Code, PodReport
from pipeline.records.results import FailureCode, failure_of
from pipeline.records.shards import ImageTask
from pipeline.records.usage import Usage
from tasks.process.metrics import MOST_NAMES, OTHER, LedgerMetrics, Metrics
from tests import factories


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_attempts_and_what_their_pods_spent_are_counted() -> None:
    metrics = Metrics()
    usage = Usage(seconds={"denoise": 4.0, "decode": 1.0}, rank_seconds=16.0, stalled_s=0.5, sent_bytes=7)
    report = PodReport(code=Code.SUCCEEDED, usage=usage)
    metrics.count_attempt(AttemptOutcome(Code.SUCCEEDED, "", report=report))
    metrics.count_attempt(AttemptOutcome(Code.PREEMPTED, "gone"))
    assert _value(metrics, "tessera_attempts_total", outcome="SUCCEEDED") == 1
    assert _value(metrics, "tessera_attempts_total", outcome="PREEMPTED") == 1
    assert _value(metrics, "tessera_phase_seconds_total", phase="denoise") == 4
    assert _value(metrics, "tessera_gpu_seconds_total") == 16
    assert _value(metrics, "tessera_exchanged_bytes_total") == 7


@pytest.mark.parametrize(
    "usage",
    ['{"rank_seconds": -1}', '{"stalled_s": Infinity}', '{"sent_bytes": 1e400}', '{"seconds": {"a\\u0007b": 1}}', "7"],
)
def test_what_a_pod_cannot_have_spent_is_not_counted_and_its_code_is(usage: str) -> None:
    report = PodReport.from_message(f'{{"code": "OUT_OF_MEMORY", "usage": {usage}}}')
    assert report is not None
    assert (report.code, report.usage) == (Code.OUT_OF_MEMORY, None)
    Metrics().count_attempt(AttemptOutcome(report.code, "", report=report))


def test_names_that_pods_choose_make_no_endless_series() -> None:
    metrics = Metrics()
    for first in range(10):
        names = (chr(97 + first) + chr(97 + second) for second in range(20))
        report = PodReport(code=Code.SUCCEEDED, usage=Usage(seconds=dict.fromkeys(names, 1.0)))
        metrics.count_attempt(AttemptOutcome(Code.SUCCEEDED, "", report=report))
    assert _value(metrics, "tessera_phase_seconds_total", phase="aa") == 1
    assert _value(metrics, "tessera_phase_seconds_total", phase=OTHER) == 200 - MOST_NAMES


def test_images_of_a_job_are_counted_by_outcome() -> None:
    metrics = Metrics()
    task = ImageTask(factories.resolved_row(), 0)
    done = factories.image_result(task).model_copy(update={"seconds": 3.0, "size_bytes": 100})
    metrics.count_images([done, done, failure_of(task, FailureCode.BLACK, "black", retryable=True)])
    assert _value(metrics, "tessera_images_total", outcome="succeeded") == 2
    assert _value(metrics, "tessera_images_total", outcome="E_BLACK") == 1
    assert _value(metrics, "tessera_uploaded_bytes_total") == 200
    assert _value(metrics, "tessera_image_seconds_sum") == 6


def test_the_ledgers_gauges_follow_its_counters(settings: Settings) -> None:
    ledger, registry = Ledger(settings), CollectorRegistry()
    registry.register(LedgerMetrics(ledger))
    assert registry.get_sample_value("tessera_open_images", {"state": "queued"}) == 0
    ledger.batches.create(factories.batch_record("measured", images=7))
    assert registry.get_sample_value("tessera_open_images", {"state": "queued"}) == 7
    assert registry.get_sample_value("tessera_open_batches") == 1
    assert registry.get_sample_value("tessera_ledger_up") == 1
    assert registry.get_sample_value("tessera_backlog_jobs") == 0


def test_a_redis_that_is_away_is_a_metric_and_no_failed_scrape(settings: Settings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
    registry = CollectorRegistry()
    registry.register(LedgerMetrics(Ledger(load_settings(settings.environment(), redis_url=away))))
    assert b"tessera_ledger_up 0.0" in generate_latest(registry)


def test_metrics_are_served_and_a_port_in_use_is_lived_with() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    metrics = Metrics()
    metrics.count_attempt(AttemptOutcome(Code.SUCCEEDED, ""))
    metrics.serve(port)
    Metrics().serve(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert b'tessera_attempts_total{outcome="SUCCEEDED"} 1.0' in answer.read()
