"""Pods that render four images at the same time, and lose them at the same time."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline import Batch
from pipeline.records.attempt import Code
from pipeline.records.results import FailureCode
from pipeline.states import BatchState, ImageState, JobState
from tests.faults.conftest import Started
from tests.faults.deployment import LONGER, Deployment, until
from tests.faults.invariants import ends_well

pytestmark = pytest.mark.slow_fault

SMALL_DEVICE = Path(__file__).parent / "small_device"
FOUR: dict[str, Any] = {"slots": 4, "images_per_job": 8}


def _states(deployment: Deployment, batch: Batch, images: int) -> list[ImageState]:
    return deployment.ledger.images.states(batch.id, list(range(images)))


def _others(batch: Batch) -> list[int]:
    return [image.result.provenance.others for image in batch.images()]


def _in_mid_table(deployment: Deployment) -> Batch:
    """A batch of six, the first of which is committed; four others have begun."""
    batch = deployment.rendering(6, steps=60)
    until("four are under way", lambda: _states(deployment, batch, 6).count(ImageState.RUNNING) >= 4)
    return batch


def test_a_pod_killed_in_mid_table_renders_each_of_its_images_alone_the_next_time(started: Started) -> None:
    deployment = started(**FOUR)
    batch = _in_mid_table(deployment)
    os.kill(deployment.ranks()[0], signal.SIGKILL)
    ends_well(deployment, batch)
    [ended] = deployment.job(batch).ended[:1]
    assert ended.code in (Code.ENGINE_ERROR, Code.KILLED)
    assert len(ended.rendering) >= 4
    attempt = deployment.job(batch).attempt
    assert attempt is not None
    assert attempt.alone == ended.rendering
    others = dict(enumerate(_others(batch)))
    assert {others[index] for index in ended.rendering} == {0}
    assert others[0] == 3


def test_a_pause_lets_the_whole_table_finish_and_nobody_join(started: Started) -> None:
    deployment = started(**FOUR)
    batch = deployment.rendering(8, steps=40)
    assert batch.pause() is BatchState.PAUSED
    deployment.in_state(batch, JobState.RETRYING)
    until("no rank is left", lambda: not deployment.ranks())
    there = batch.status().succeeded
    assert 1 < there < 8
    assert batch.unpause() is BatchState.IN_PROGRESS
    ends_well(deployment, batch)
    attempts = deployment.attempts(batch)
    assert attempts == [1] * there + [2] * (8 - there)
    assert deployment.job(batch).spent == 0


def test_an_image_that_kills_its_pods_is_isolated_and_its_neighbours_are_rendered(started: Started) -> None:
    """Whoever has image 3 under way dies."""
    deployment = started(**FOUR)
    batch = deployment.submit(6, **LONGER)

    def harmed_or_over() -> bool:
        if (state := _states(deployment, batch, 6)[3]) is not ImageState.RUNNING:
            return state is not ImageState.QUEUED
        job = deployment.job_or_none(batch)
        if job is not None and job.state is JobState.RUNNING and (ranks := deployment.ranks()):
            os.kill(ranks[0], signal.SIGKILL)
            ended = len(job.ended)
            until("its end is noted", lambda: len(deployment.job(batch).ended) > ended)
        return False

    until("image 3 has an outcome", harmed_or_over, timeout_s=400)
    ends_well(deployment, batch, failed=1)
    [failure] = batch.errors()
    assert (failure.index, failure.code) == (3, FailureCode.POISON)
    assert [len(end.rendering) > 1 for end in deployment.job(batch).ended[:2]] == [True, False]


def test_what_runs_out_of_memory_together_is_rendered_in_fewer_slots_and_then_in_less(started: Started) -> None:
    """The device holds three rows of 128 pixels: one guided image, no two; of 192 pixels one row, no guided image."""
    deployment = started("control", "render", "beat", **FOUR)
    deployment.start("node", PYTHONPATH=str(SMALL_DEVICE), FAULTS_ELEMENTS=str(3 * 16 * 16))
    large = {"prompt": "a large hill", "width": 192, "height": 192, "steps": 2}
    rows = [{"prompt": f"hill {number}", "width": 128, "height": 128, "steps": 2} for number in range(6)]
    batch = deployment.submit_rows([*rows, large])
    ends_well(deployment, batch)
    results = [image.result for image in batch.images()]
    assert [result.provenance.lean for result in results] == [False] * 6 + [True]
    assert {result.provenance.others for result in results} == {0}
    jobs = [deployment.job(batch, index) for index in range(sum(batch.status().jobs.values()))]
    ended = [end.code for job in jobs for end in job.ended if end.code is not Code.SUCCEEDED]
    assert set(ended) == {Code.OUT_OF_MEMORY}
    assert min(job.attempt.slots for job in jobs if job.attempt is not None) == 1
