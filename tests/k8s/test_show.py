"""What `tessera pod BATCH/JOB` prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.job_manifest import job_manifest
from k8s.pod import pod_settings
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import Settings, load_settings, variable_name
from pipeline.ledger import Ledger
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.batch import advance
from pipeline.states import JobState
from tests.factories import at, batch_record, job_record

Make = Callable[..., Any]


@pytest.fixture
def cluster_settings(settings: Settings) -> Settings:
    """The test's Redis and bucket, as a deployment in a cluster has them."""
    image = "registry.example/tessera@sha256:" + "0" * 64
    return load_settings(settings.environment(), launcher="kubernetes", image=image, pod={"env_from_secrets": ["s"]})


def _show(
    settings: Settings, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "k8s.show", *arguments],
        env=others | (settings.environment() if environment is None else environment),
        cwd=Path(__file__).parent,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


def _attempted(ledger: Ledger, make_spec: Make) -> Any:
    spec = make_spec(batch_id="b", job_index=0)
    record = job_record(batch_id="b", index=0)
    ledger.batches.create(batch_record("b"))
    ledger.jobs.create(record)
    lease = ledger.leases.claim("w", 20)
    assert lease is not None
    launching = advance(record, JobState.LAUNCHING, at=at(), attempt=spec)
    ledger.jobs.write(launching, QueuePlace.HELD, fence=lease.fence)
    return spec


def test_the_latest_attempts_job_is_printed(cluster_settings: Settings, make_spec: Make) -> None:
    spec = _attempted(Ledger(cluster_settings), make_spec)
    done = _show(cluster_settings, "b/0")
    assert done.returncode == 0, done.stderr
    made = json.dumps(job_manifest(spec, pod_settings(cluster_settings), cluster_settings))
    assert made.count(spec.token) == 2
    assert json.loads(done.stdout) == json.loads(made.replace(spec.token, "***"))
    assert spec.token not in done.stdout
    password = cluster_settings.redis_url.get_secret_value()
    assert password not in done.stdout


def test_a_client_needs_to_know_no_more_than_where_redis_and_the_bucket_are(
    settings: Settings, cluster_settings: Settings, make_spec: Make
) -> None:
    ledger = Ledger(settings)
    spec = _attempted(ledger, make_spec)
    ledger.announce(Deployment.of(cluster_settings, "1"))
    names = ("redis_url", "redis_prefix", "s3_bucket", "s3_prefix", "s3_endpoint", "s3_region")  # of NOTES
    environment = {variable_name(name): str(getattr(settings, name)) for name in names}
    environment |= {"TESSERA_REDIS_URL": settings.redis_url.get_secret_value()}
    client = load_settings(environment)
    assert "pod" not in client.model_fields_set
    done = _show(cluster_settings, "b/0", environment=environment)
    assert done.returncode == 0, done.stderr
    made = json.dumps(job_manifest(spec, pod_settings(cluster_settings), cluster_settings))
    assert json.loads(done.stdout) == json.loads(made.replace(spec.token, "***"))


@pytest.mark.parametrize(("ref", "message"), [("b", "BATCH/JOB"), ("b/x", "BATCH/JOB"), ("b/7", "no job")])
def test_a_job_that_cannot_be_shown_is_said_so(cluster_settings: Settings, ref: str, message: str) -> None:
    done = _show(cluster_settings, ref)
    assert done.returncode == 2
    assert message in done.stderr
