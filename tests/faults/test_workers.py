"""Render workers that are stopped, killed and asked to go, at every point of a job. None of it costs an attempt."""

from __future__ import annotations

import signal
import time

import pytest

from pipeline.client.batch import Batch
from pipeline.deployment.broker import RENDER, celery_app, send_hint
from pipeline.states import JobState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries

slow = pytest.mark.slow_fault


@pytest.mark.parametrize("lease_s", [4, pytest.param(20, marks=slow)])
def test_a_worker_killed_in_mid_render_costs_no_attempt(started: Started, recoveries: Recoveries, lease_s: int) -> None:
    deployment = started(lease_s=lease_s)
    batch = deployment.rendering()
    claims = deployment.fence(batch)
    killed = time.monotonic()
    deployment.replace("render")
    took = recoveries.after(
        f"worker SIGKILLed in mid-render (TESSERA_LEASE_S={lease_s})",
        "another worker holds the job; its pod never stopped",
        lambda: deployment.fence(batch) > claims,
        killed,
    )
    assert took < 45
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


def test_a_worker_that_is_asked_to_stop_hands_over_within_a_second(started: Started, recoveries: Recoveries) -> None:
    deployment = started("node", "control", "beat", "render-1")
    batch = deployment.rendering()
    deployment.start("render-2")
    until("both are ready", lambda: len(deployment.ledger.workers.free_slots()) == 2)
    asked = time.monotonic()
    deployment.send("render-1", signal.SIGTERM)
    until("the lease is handed over", lambda: not deployment.held(batch) or deployment.fence(batch) > 1)
    recoveries.after(
        "worker asked to stop (SIGTERM) in mid-render",
        "another worker holds the job; its pod never stopped",
        lambda: deployment.fence(batch) > 1,
        asked,
    )
    assert deployment.children["render-1"].exit_code() in (None, 0)
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
def test_a_worker_stopped_while_idle_and_killed_later_takes_no_job_along(
    deployment: Deployment, recoveries: Recoveries
) -> None:
    deployment.send("render", signal.SIGSTOP)
    batch = deployment.submit()
    until("it is in the backlog", deployment.ledger.leases.backlog)
    time.sleep(2)  # long enough for the broker to hand the hint to it
    killed = time.monotonic()
    deployment.replace("render")
    recoveries.after(
        "idle worker stopped (SIGSTOP), batch submitted, worker SIGKILLed",
        "another worker holds the job",
        lambda: deployment.fence(batch) > 0,
        killed,
    )
    ends_well(deployment, batch)


@slow
@pytest.mark.parametrize(
    ("what", "words", "before"),
    [
        ("between the attempt's record and its launch", (b'"state":"launching"', b'"confirmed":false'), False),
        ("between launch and its confirmation", (b'"state":"launching"', b'"confirmed":true'), True),
        ("between launch and first observation", (b'"state":"launching"', b'"confirmed":true'), False),
    ],
)
def test_a_worker_killed_around_the_launch(
    deployment: Deployment, recoveries: Recoveries, what: str, words: tuple[bytes, ...], before: bool
) -> None:
    with deployment.redis_wire.stopping(*words, before=before) as stop:
        batch = deployment.submit()
        assert stop.reached.wait(60)
        job = deployment.job(batch)
        assert (job.state, job.confirmed) == (JobState.LAUNCHING, "first observation" in what)
        launched = list((deployment.folder / "node" / "attempts").glob("*.spec.json"))
        assert len(launched) == what.startswith("between launch")
        killed = time.monotonic()
        deployment.replace("render")
    took = recoveries.after(
        f"worker SIGKILLed {what}",
        "another worker has seen what became of its attempt",
        lambda: deployment.fence(batch) > 1 and deployment.job(batch).state is not JobState.LAUNCHING,
        killed,
    )
    assert took < 45
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
def test_hints_that_come_again_and_again_in_mid_render_start_nothing_twice(started: Started) -> None:
    deployment = started("node", "control", "beat", "render-1", "render-2")
    batch = deployment.rendering()
    app = celery_app(deployment.settings)
    for _ in range(20):
        assert send_hint(app, RENDER)
    deployment.ledger.store.redis.client_kill_filter(
        _type="normal", skipme=True
    )  # what was not acknowledged comes back
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


def _replace(deployment: Deployment, worker: str, batch: Batch, *, once_done: int) -> None:
    until("some more images", lambda: batch.status().succeeded >= once_done)
    deployment.send(worker, signal.SIGTERM)
    until(f"{worker} is gone", lambda: deployment.children[worker].exit_code() is not None)
    deployment.start(worker)


@slow
def test_three_workers_replaced_in_turn_during_fifty_images(started: Started) -> None:
    workers = [f"render-{number}" for number in range(3)]
    deployment = started("node", "control", "beat", *workers, images_per_job=10)
    batch = deployment.submit(50, width=64, height=64, steps=2)
    for number, worker in enumerate(workers):
        _replace(deployment, worker, batch, once_done=6 + 12 * number)
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}
