"""What is true of every batch when it is over, whatever was done to whom meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from embedded.attempts import AttemptFolder
from pipeline import Batch
from pipeline.bucket.artifacts import sha256
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from pipeline.states import BatchState, ImageState, JobState, is_final
from tests.faults.deployment import Deployment, until

NOTHING: Mapping[str, int] = {}

# A busy machine renders slowly; nobody waits so long for what is well.
END_S = 600.0


def ends_well(
    deployment: Deployment,
    batch: Batch,
    state: BatchState = BatchState.COMPLETED,
    *,
    failed: int | None = 0,
    harmed: Mapping[str, int] = NOTHING,
) -> None:
    """Wait until the batch is over; then every invariant holds.

    `failed` images have an error instead of a picture, any number if it is None; a cancelled batch may have any. The
    file of an image may be put once more for each time that it was `harmed`, by its key.
    """
    status = batch.wait(timeout_s=END_S)
    assert status.state is state, f"{status.state}: {status.reason}"
    if state is BatchState.COMPLETED:
        assert failed is None or status.failed == failed
        assert status.succeeded + status.failed == status.total
    _each_image_once(deployment, batch, harmed)
    _counters_are_sums(deployment, batch)
    _nothing_is_left(deployment, batch)
    deployment.batches[batch.id] = True


def _each_image_once(deployment: Deployment, batch: Batch, harmed: Mapping[str, int]) -> None:
    """Ledger, bucket, files of results and the wire say the same of every image."""
    objects = BatchObjects(batch.id)
    tasks = _tasks(deployment, objects)
    states = dict(zip(tasks, deployment.ledger.images.states(batch.id, list(tasks)), strict=True))
    results = [ImageResult.model_validate_json(line) for line in deployment.artifacts.lines(objects.results)]
    errors = [json.loads(line) for line in deployment.artifacts.lines(objects.errors)]
    assert sorted(r.index for r in results) == sorted(i for i, s in states.items() if s is ImageState.SUCCEEDED)
    assert sorted(e["index"] for e in errors) == sorted(i for i, s in states.items() if s is not ImageState.SUCCEEDED)
    puts = {key.partition("/")[2]: count for key, count in deployment.s3_wire.puts.items()}
    for index, task in tasks.items():
        key = task.key(objects)
        if states[index] is ImageState.SUCCEEDED:
            times = puts.get(key, 0)
            assert 1 <= times <= 1 + harmed.get(key, 0), f"{key} was committed {times} times"
        else:
            assert states[index] in (ImageState.FAILED, ImageState.CANCELLED)
            times = puts.get(key, 0)
            assert times <= harmed.get(key, 0), f"{key} was committed {times} times, and its image is {states[index]}"
            assert deployment.artifacts.head(key) is None
    for result in results:
        body = deployment.artifacts.get(result.key)
        assert body is not None
        assert (sha256(body), len(body)) == (result.sha256, result.size_bytes)
    end = deployment.ledger.batches.state(batch.id)
    assert deployment.artifacts.head(objects.marker(end)) is not None


def _counters_are_sums(deployment: Deployment, batch: Batch) -> None:
    objects = BatchObjects(batch.id)
    counts = deployment.ledger.batches.counts(batch.id)
    record = deployment.ledger.batches.get(batch.id)
    states = Counter(deployment.ledger.images.states(batch.id, range(record.manifest.images)))
    assert {state: states[state] for state in ImageState} == dict(counts.images)
    assert record.jobs is not None
    jobs = Counter(deployment.job(batch, index).state for index in range(record.jobs))
    assert {state: jobs[state] for state in JobState} == dict(counts.jobs)
    assert all(is_final(state) for state in jobs)
    assert sorted(_tasks(deployment, objects)) == list(range(record.manifest.images)), "no accepted image is lost"


def _nothing_is_left(deployment: Deployment, batch: Batch) -> None:
    """No lease, no place in a queue of the ledger, no attempt on the node, no process of one."""
    store = deployment.ledger.store
    assert not store.redis.zcard(store.keys.jobs(batch.id))
    for key in (store.keys.leases, store.keys.delayed):
        assert not [ref for ref in store.redis.zrange(key, 0, -1) if ref.startswith(f"{batch.id}/")]
    tenant = deployment.ledger.batches.get(batch.id).manifest.tenant
    assert not [ref for ref in store.redis.zrange(store.keys.backlog(tenant), 0, -1) if ref.startswith(f"{batch.id}/")]
    if not deployment.ledger.batches.unfinished():
        held = {name: int(count) for name, count in store.redis.hgetall(store.keys.tenants).items()}
        assert not any(held.values()), f"leases are still counted: {held}"
        until("no attempt is left", lambda: not AttemptFolder(deployment.folder).listing().specs)
        until("no rank is left", lambda: not deployment.ranks())


def _tasks(deployment: Deployment, objects: BatchObjects) -> dict[int, ImageTask]:
    """The images of a batch by index, from its shards."""
    jobs = deployment.ledger.batches.get(objects.batch_id).jobs
    assert jobs is not None
    tasks: dict[int, ImageTask] = {}
    for index in range(jobs):
        body = deployment.artifacts.get(objects.shard(index))
        assert body is not None
        tasks |= {task.index: task for task in images_of(parsed_shard(body))}
    return tasks
