"""Cancelling in each state: what is committed stays, the rest is cancelled."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline import Batch
from pipeline.states import BatchState, JobState
from tests.faults.conftest import Started
from tests.faults.deployment import LONGER, Deployment, until
from tests.faults.invariants import ends_well

slow = pytest.mark.slow_fault


def _cancelled(deployment: Deployment, batch: Batch) -> None:
    assert batch.cancel() is BatchState.CANCELLING
    ends_well(deployment, batch, BatchState.CANCELLED)


def test_while_it_renders(deployment: Deployment) -> None:
    batch = deployment.rendering(30)
    _cancelled(deployment, batch)
    assert 0 < batch.status().succeeded < 30


@slow
def test_while_it_is_validating(deployment: Deployment) -> None:
    with deployment.s3_wire.breaking(method="PUT", key="/shards/", hold=True) as rule:
        batch = deployment.submit(8)
        assert rule.reached.wait(60)
        assert batch.cancel() is BatchState.CANCELLING
    ends_well(deployment, batch, BatchState.CANCELLED)
    assert batch.status().succeeded == 0


@slow
def test_while_it_is_queued(started: Started) -> None:
    deployment = started("node", "control", "beat")
    batch = deployment.submit(8)
    deployment.in_state(batch, JobState.QUEUED)
    _cancelled(deployment, batch)
    assert batch.status().succeeded == 0


@slow
@pytest.mark.parametrize("before", [True, False], ids=["before the launch", "after the launch"])
def test_while_it_is_launching(deployment: Deployment, before: bool) -> None:
    """Its worker is held there and killed; another finds the flag."""
    confirmed = b'"confirmed":false' if before else b'"confirmed":true'
    with deployment.redis_wire.stopping(b'"state":"launching"', confirmed) as stop:
        batch = deployment.submit(4)
        assert stop.reached.wait(60)
        assert batch.cancel() is BatchState.CANCELLING
        deployment.replace("render")
    ends_well(deployment, batch, BatchState.CANCELLED)


@slow
def test_while_it_is_pending(deployment: Deployment) -> None:
    deployment.send("node", signal.SIGSTOP)  # a node that has yet to look at the attempt
    batch = deployment.submit(4)
    deployment.in_state(batch, JobState.PENDING)
    assert batch.cancel() is BatchState.CANCELLING
    deployment.send("node", signal.SIGCONT)
    ends_well(deployment, batch, BatchState.CANCELLED)


@slow
def test_while_it_uploads(deployment: Deployment) -> None:
    with deployment.s3_wire.breaking(method="PUT", key=r"/images/.*\.png$", hold=True) as rule:
        batch = deployment.submit(8, **LONGER)
        assert rule.reached.wait(180)  # several slots end late, and together
        assert batch.cancel() is BatchState.CANCELLING
        until("it was told", lambda: "stopping" in deployment.attempt_log())  # by the ledger, or by the end of its pod
    ends_well(deployment, batch, BatchState.CANCELLED)


@slow
def test_while_it_waits_for_its_next_attempt(deployment: Deployment) -> None:
    batch = deployment.rendering(8)
    os.kill(deployment.ranks()[1], signal.SIGKILL)
    deployment.in_state(batch, JobState.RETRYING)
    _cancelled(deployment, batch)
    assert batch.status().succeeded > 0


@slow
def test_while_it_is_paused(started: Started) -> None:
    """Its job waits for its next attempt, and nobody renders."""
    deployment = started(images_per_job=30)
    batch = deployment.rendering(30)
    assert batch.pause() is BatchState.PAUSED
    deployment.in_state(batch, JobState.RETRYING)
    until("no rank is left", lambda: not deployment.ranks())
    _cancelled(deployment, batch)
    assert 0 < batch.status().succeeded < 30


@slow
def test_too_late_while_it_is_finalizing(deployment: Deployment) -> None:
    with deployment.s3_wire.breaking(method="PUT", key="/results.jsonl$", hold=True) as rule:
        batch = deployment.submit(2)
        assert rule.reached.wait(90)
        assert batch.cancel() is BatchState.FINALIZING
    ends_well(deployment, batch)


@slow
def test_the_flag_survives_the_end_of_everybody_who_could_remember_it(deployment: Deployment) -> None:
    batch = deployment.rendering(30)
    for part in ("render", "control", "beat"):
        deployment.kill(part)
    assert batch.cancel() is BatchState.CANCELLING
    deployment.services.redis.send(signal.SIGKILL)
    until("Redis is gone", lambda: deployment.services.redis.exit_code() is not None)
    deployment.services.redis.start()
    deployment.start("render", "control", "beat")
    ends_well(deployment, batch, BatchState.CANCELLED)
