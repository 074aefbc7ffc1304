"""A `batch.json` that says another number of images than the accepted rows give: its batch ends, and says why."""

from __future__ import annotations

import json

import pytest

from pipeline.operations.cancel import request_cancel
from pipeline.operations.status import batch_status
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tasks.control.expand import expand
from tasks.control.tick import recover_batches
from tests.tasks.stage import Stage

OBJECTS = BatchObjects("b")
each_number = pytest.mark.parametrize("images", [0, 3, 9])


def _say(stage: Stage, images: int) -> None:
    """Redis is emptied, and `batch.json` says this many images."""
    there = json.loads(stage.artifacts.get(OBJECTS.manifest) or b"")
    body = json.dumps(there | {"images": images}).encode()
    stage.artifacts.put(OBJECTS.manifest, body, content_type="application/json")
    for key in stage.ledger.store.redis.keys(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)
    recover_batches(stage.worker)


@each_number
@pytest.mark.parametrize("fragments", [0, 1, 2])
def test_a_batch_that_is_rebuilt_by_it_fails_by_name(stage: Stage, images: int, fragments: int) -> None:
    """Also if those of its images that are done are as many as it says."""
    stage.batch(5)
    stage.work()
    for job in range(fragments, 2):
        stage.artifacts.delete(OBJECTS.fragment(job))
    _say(stage, images)
    expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.FAILED
    assert batch_status(stage.ledger, "b").reason == (
        f"batches/b/batch.json says {images} images, and the accepted rows give 5"
    )


@each_number
def test_one_that_is_cancelled_ends_too(stage: Stage, images: int) -> None:
    stage.batch(5)
    _say(stage, images)
    request_cancel(stage.ledger, "b")
    expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.FAILED


def test_a_batch_that_ran_by_it_fails_by_name_with_what_is_known(stage: Stage) -> None:
    """It was rebuilt and cut before anybody compared the two."""
    stage.batch(5)
    stage.work()
    record = stage.ledger.batches.get("b")
    other = record.model_copy(update={"manifest": record.manifest.model_copy(update={"images": 9})})
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    redis.hset(keys.batch("b"), "record", other.model_dump_json())
    redis.hincrby(keys.counts("b"), "image.queued", 4)
    stage.finalized()
    assert stage.batch_state() is BatchState.FAILED
    assert batch_status(stage.ledger, "b").reason == "4 images of batch b are in no fragment"
    assert [line["index"] for line in stage.lines("results.jsonl")] == list(range(5))
