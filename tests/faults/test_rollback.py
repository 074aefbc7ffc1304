"""Redis put back to the file that it had before: at each step of a batch, again and again, and emptied in a storm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline import Batch
from pipeline.errors import BatchLost, LedgerUnavailable
from pipeline.states import BatchState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries
from tests.faults.redis_files import RedisFiles

slow = pytest.mark.slow_fault


@pytest.fixture
def files(deployment: Deployment, tmp_path: Path) -> RedisFiles:
    return RedisFiles(deployment.services, tmp_path / "copies")


def _state(batch: Batch) -> BatchState | None:
    try:
        return batch.status().state
    except (LedgerUnavailable, BatchLost):
        return None


def _in_order(deployment: Deployment) -> bool:
    try:
        return not deployment.ledger.generations.is_in_doubt()
    except LedgerUnavailable:
        return False


@slow
def test_jobs_forgotten_before_they_are_let_run(
    deployment: Deployment, files: RedisFiles, recoveries: Recoveries
) -> None:
    """The controller's next write, which says how many there are, is repeated by the client library and refused."""
    with deployment.redis_wire.stopping(b'"state":"in_progress"', b'"jobs":3', before=True) as stop:
        with deployment.s3_wire.breaking(method="PUT", key="/shards/00001", hold=True) as rule:
            batch = deployment.submit(12)
            assert rule.reached.wait(60)
            copy = files.copy()
        assert stop.reached.wait(60)
        files.roll_back(copy)
        began = time.monotonic()
    recoveries.after(
        "Redis put back to before the jobs of a batch, while the controller lets them run",
        "the batch is in progress",
        lambda: _state(batch) is BatchState.IN_PROGRESS,
        began,
    )
    ends_well(deployment, batch)


@slow
def test_an_attempt_that_redis_has_forgotten_is_adopted(
    deployment: Deployment, files: RedisFiles, recoveries: Recoveries
) -> None:
    with deployment.s3_wire.breaking(method="PUT", key="/shards/00000", hold=True) as rule:
        batch = deployment.submit(4, width=128, height=128, steps=12)
        assert rule.reached.wait(60)
        copy = files.copy()
    until("an image is committed", lambda: batch.status().succeeded)
    files.roll_back(copy)
    began = time.monotonic()
    recoveries.after(
        "Redis put back to before a batch was cut, in mid-render",
        "the ledger is up to what was committed",
        lambda: _state(batch) is BatchState.IN_PROGRESS and batch.status().succeeded,
        began,
    )
    ends_well(deployment, batch)


@slow
def test_an_end_that_redis_has_forgotten_is_not_rendered_again(
    deployment: Deployment, files: RedisFiles, recoveries: Recoveries
) -> None:
    batch = deployment.rendering(6)
    copy = files.copy()
    ends_well(deployment, batch)
    before = deployment.attempts(batch)
    files.roll_back(copy)
    began = time.monotonic()
    recoveries.after(
        "Redis put back from after a batch's end to its middle",
        "the batch is completed",
        lambda: _state(batch) is BatchState.COMPLETED,
        began,
    )
    ends_well(deployment, batch)
    assert deployment.attempts(batch) == before


@slow
def test_a_batch_that_was_accepted_and_ended_since_comes_back_by_itself(
    deployment: Deployment, files: RedisFiles
) -> None:
    until("the ledger has been counted", lambda: _in_order(deployment))
    copy = files.copy()
    batch = deployment.submit(3)
    ends_well(deployment, batch)
    files.roll_back(copy)
    until("it is known again", lambda: _state(batch) is BatchState.COMPLETED)
    ends_well(deployment, batch)


@slow
def test_redis_put_back_again_and_again(started: Started, tmp_path: Path) -> None:
    """Five times, each to what it had some seconds before, with three batches under way."""
    deployment = started("node", "control", "beat", "render-1", "render-2")
    files = RedisFiles(deployment.services, tmp_path / "copies")
    batches = [deployment.submit(6, width=128, height=128, steps=8) for _ in range(3)]
    until("something is committed", lambda: sum(map(deployment.images_put, batches)))
    for seconds in (1, 8, 2, 5, 3):
        copy = files.copy()
        time.sleep(seconds)
        files.roll_back(copy)
        until("Redis answers", lambda: _state(batches[0]) is not None)
    for batch in batches:
        ends_well(deployment, batch)


@slow
def test_redis_emptied_in_a_storm(started: Started) -> None:
    """While workers, pods and controller write about many batches: none of them writes into what has forgotten it."""
    deployment = started("node", "control", "beat", "render-1", "render-2", images_per_job=2)
    batches = [deployment.submit(8) for _ in range(4)]
    until("something is committed", lambda: sum(map(deployment.images_put, batches)) > 2)
    for _ in range(3):
        deployment.ledger.store.redis.flushall()
        time.sleep(4)
    deployment.client.resume()  # what had ended before
    for batch in batches:
        ends_well(deployment, batch)
