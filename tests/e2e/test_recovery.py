"""Resume, isolation and pause as a user asks for them; tests/faults does the harm that nobody asks for."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline import Batch, Client
from pipeline.client.connect import Connection
from pipeline.errors import BatchLost
from pipeline.records.results import FailureCode
from pipeline.states import BatchState, ImageState, JobState
from tests.e2e.stack import User, until


def _begun(client: Client, name: str) -> Batch:
    """A batch of four images, one of them there; the others take seconds each, so that a slow test is in time too."""
    rows = [{"prompt": f"{name} {i}", "steps": 80 if i else 8} for i in range(4)]
    batch = client.submit(rows, width=256, height=256)
    until("an image is there", lambda: batch.status().succeeded)
    return batch


def _attempts(batch: Batch) -> set[int]:
    status = batch.wait(timeout_s=600)
    assert (status.state, status.succeeded) == (BatchState.COMPLETED, 4)
    images = list(batch.images())
    assert len({image.result.index for image in images}) == len(images) == 4
    return {image.result.provenance.attempt for image in images}


def test_an_emptied_redis_is_rebuilt_while_the_pod_goes_on(client: Client, connection: Connection) -> None:
    over = client.submit(["over"], width=128, height=128, steps=2)
    over.wait(timeout_s=600)
    batch = _begun(client, "emptied")
    connection.ledger.store.redis.flushall()
    with pytest.raises(BatchLost, match="run `tessera resume`"):
        over.status()
    assert over.id in client.resume()
    assert _attempts(batch) == {1}
    status = over.wait(timeout_s=600)
    assert (status.state, status.succeeded) == (BatchState.COMPLETED, 1)
    assert client.resume() == []


def test_an_image_whose_pod_is_killed_twice_is_isolated_and_retried_when_asked(client: Client, studio: User) -> None:
    batch = client.submit([f"poison {i}" for i in range(3)], width=256, height=256, steps=60)
    for attempt in (1, 2):
        until("an image is rendered", lambda: batch.status().images[ImageState.RUNNING])
        for pid, command in studio.processes().items():
            if "distri.run" in command and "torch.distributed" not in command:
                os.kill(pid, signal.SIGKILL)
        if attempt == 1:
            until("the attempt is over", lambda: batch.status().jobs[JobState.RETRYING])
    status = batch.wait(timeout_s=600)
    assert (status.state, status.succeeded) == (BatchState.COMPLETED, 2)
    assert [failure.code for failure in batch.errors()] == [FailureCode.POISON]
    done = studio.run("retry", batch.id, "--code", "E_POISON", "--watch")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{batch.id} is opened again for 1 image\n"
    assert len(list(batch.images())) == 3
    assert studio.json("retry", batch.id) == {"batch": batch.id, "images": 0, "failed": {}}


def test_a_paused_batch_frees_its_pod_between_two_images_and_goes_on(client: Client, studio: User) -> None:
    batch = _begun(client, "paused")
    assert studio.json("pause", batch.id) == {"batch": batch.id, "state": "paused"}
    until("no pod is left", lambda: not any("distri.run" in command for command in studio.processes().values()))
    status = batch.status()
    assert (status.state, status.images[ImageState.RUNNING]) == (BatchState.PAUSED, 0)
    assert 0 < status.succeeded < 4
    assert studio.json("unpause", batch.id) == {"batch": batch.id, "state": "in_progress"}
    assert _attempts(batch) == {1, 2}
