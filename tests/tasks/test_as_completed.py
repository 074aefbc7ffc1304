"""`Batch.as_completed` and `await batch`: images as they are committed, each once, while other tasks run."""

from __future__ import annotations

import asyncio

import pytest

from pipeline import BatchState, Client, WaitTimeout
from pipeline.client.batch import Batch
from pipeline.records.attempt import AttemptOutcome, AttemptSpec
from tasks.control.expand import expand
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage


@pytest.fixture
def stage_here(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    return stage


def _submitted(stage: Stage) -> Batch:
    batch = Client().submit(["a hill", "a sea", "a tower"], size="64x64")
    expand(stage.worker, batch.id)
    return batch


def test_images_come_while_the_batch_runs_and_each_once(stage_here: Stage) -> None:
    stage, batch = stage_here, _submitted(stage_here)
    came: list[int] = []
    images = iter(batch.as_completed())

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            for task in pod.left():
                pod.commit([task])
                came.append(next(images).result.row)  # there is no end yet: the loop has it all the same
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.work(batch.id)
    stage.finalized(batch.id)
    assert sorted(came) == [0, 1, 2]
    assert list(images) == []
    assert len(list(batch.as_completed())) == 3


def test_awaiting_lets_other_tasks_run(stage_here: Stage) -> None:
    stage, batch = stage_here, _submitted(stage_here)

    async def main() -> tuple[BatchState, list[str]]:
        waiting = asyncio.ensure_future(_state(batch))
        await asyncio.to_thread(stage.work, batch.id)
        await asyncio.to_thread(stage.finalized, batch.id)
        return await waiting, [image.result.image_id async for image in batch.as_completed()]

    assert asyncio.run(main()) == (BatchState.COMPLETED, ["0000000-000", "0000001-000", "0000002-000"])


async def _state(batch: Batch) -> BatchState:
    return (await batch).state


def test_a_batch_that_does_not_end_in_time_is_an_error_and_a_task_that_is_cancelled_leaves_no_thread(
    stage_here: Stage,
) -> None:
    batch = _submitted(stage_here)
    with pytest.raises(WaitTimeout):
        list(batch.as_completed(timeout_s=0))

    async def main() -> None:
        waiting = asyncio.ensure_future(_state(batch))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())  # which waits for its threads
