"""Ranks that are killed and ranks that hang, in mid-render: another attempt, which keeps what was committed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline import Batch
from pipeline.records.attempt import Code
from pipeline.states import JobState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries


def _runs_again(deployment: Deployment, batch: Batch) -> bool:
    job = deployment.job(batch)
    return len(job.ended) == 1 and job.state in (JobState.RUNNING, JobState.SUCCEEDED)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow_fault)])
def test_a_killed_rank_is_another_attempt_that_keeps_what_was_rendered(
    deployment: Deployment, recoveries: Recoveries, rank: int
) -> None:
    batch = deployment.rendering()
    killed = time.monotonic()
    os.kill(deployment.ranks()[rank], signal.SIGKILL)
    recoveries.after(
        f"rank {rank} SIGKILLed in mid-render",
        "another attempt runs",
        lambda: _runs_again(deployment, batch),
        killed,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1, 2}
    [ended] = deployment.job(batch).ended[:1]
    assert ended.code in (Code.ENGINE_ERROR, Code.KILLED)


@pytest.mark.slow_fault
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_missed_and_named(started: Started, recoveries: Recoveries, rank: int) -> None:
    """Ranks wait 10 s for each other here, instead of the five minutes of the default."""
    deployment = started(collective_timeout_s=10)
    batch = deployment.rendering()
    stopped = time.monotonic()
    os.kill(deployment.ranks()[rank], signal.SIGSTOP)
    recoveries.after(
        f"rank {rank} hangs in mid-render (SIGSTOP; TESSERA_COLLECTIVE_TIMEOUT_S=10)",
        "another attempt runs",
        lambda: _runs_again(deployment, batch),
        stopped,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1, 2}
    [ended] = deployment.job(batch).ended[:1]
    assert ended.code is Code.ENGINE_ERROR
    assert f"no sign from {rank}" in ended.reason
