"""Objects of a batch that are deleted, late or damaged: it ends with the truth, or a repair leads there."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pipeline import Batch
from pipeline.picture import Format
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries
from tests.rollback import Snapshot

slow = pytest.mark.slow_fault

LATE_S = 15.0


def _rendered(deployment: Deployment, images: int = 6) -> Batch:
    """A batch whose jobs are over, and that no controller has finalized yet."""
    batch = deployment.rendering(images)
    deployment.kill("control")
    until("every job is over", lambda: not deployment.ledger.jobs.any_unfinished(batch.id))
    return batch


def _image(batch: Batch, row: int = 0) -> str:
    return BatchObjects(batch.id).image(row, 0, Format.PNG)


def _input(deployment: Deployment, batch: Batch) -> str:
    return BatchObjects(batch.id).input(deployment.ledger.batches.get(batch.id).manifest.staged)


def _spoil(*keys: Callable[[BatchObjects], str], body: bytes | None = None) -> Callable[[Deployment, Batch], None]:
    """Deletes these objects, or puts something else in their place."""

    def spoil(deployment: Deployment, batch: Batch) -> None:
        for key in keys:
            if body is None:
                deployment.artifacts.delete(key(BatchObjects(batch.id)))
            else:
                deployment.artifacts.put(key(BatchObjects(batch.id)), body, content_type="application/json")

    return spoil


HARM = {
    "fragment deleted": _spoil(lambda o: o.fragment(0)),
    "fragment cut short": _spoil(lambda o: o.fragment(0), body=b'{"schema_version": 1, "status"'),
    "fragment and shard deleted": _spoil(lambda o: o.fragment(0), lambda o: o.shard(0)),
    "fragment and sidecar damaged": _spoil(
        lambda o: o.fragment(0), lambda o: o.sidecar(1, 0), body=b'{"schema_version": 1'
    ),
    "plan deleted": _spoil(lambda o: o.plan),
}


@slow
@pytest.mark.parametrize("harm", HARM)
def test_before_a_batch_is_finalized(deployment: Deployment, recoveries: Recoveries, harm: str) -> None:
    batch = _rendered(deployment)
    HARM[harm](deployment, batch)
    began = time.monotonic()
    deployment.start("control")
    recoveries.after(
        f"{harm} before the batch is finalized",
        "the batch is completed, with every image",
        lambda: batch.status().state is BatchState.COMPLETED,
        began,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}
    assert batch.verify(deep=True).ok


@slow
def test_fragments_that_are_late_at_finalization(deployment: Deployment, recoveries: Recoveries) -> None:
    batch = _rendered(deployment)
    began = time.monotonic()
    with deployment.s3_wire.breaking(method="GET", key="/fragments/", status=404) as rule:
        deployment.start("control")
        assert rule.reached.wait(60)
        time.sleep(LATE_S)
    recoveries.after(
        f"fragments answer 404 for {LATE_S:.0f} s at finalization",
        "the batch is completed, with every image",
        lambda: batch.status().state is BatchState.COMPLETED,
        began,
    )
    ends_well(deployment, batch)


@slow
def test_a_fragment_and_its_image_are_deleted_before_a_batch_is_finalized(
    deployment: Deployment, recoveries: Recoveries
) -> None:
    batch = _rendered(deployment)
    began = time.monotonic()
    _spoil(lambda o: o.fragment(0), lambda o: o.image(0, 0, Format.PNG))(deployment, batch)
    deployment.start("control")
    recoveries.after(
        "a fragment and a picture of it deleted before the batch is finalized",
        "the picture is rendered again, and the batch completed",
        lambda: batch.status().state is BatchState.COMPLETED,
        began,
    )
    ends_well(deployment, batch, harmed={_image(batch): 1})


@slow
def test_a_shard_that_is_deleted_before_its_pod_starts(started: Started, recoveries: Recoveries) -> None:
    deployment = started("node", "control", "beat")
    batch = deployment.submit(6)
    until("the batch is cut", lambda: batch.status().state is BatchState.IN_PROGRESS)
    deployment.artifacts.delete(BatchObjects(batch.id).shard(1))
    began = time.monotonic()
    deployment.start("render")
    recoveries.after(
        "a shard deleted before its pod starts",
        "all its images are there",
        lambda: batch.status().succeeded == 6,
        began,
    )
    ends_well(deployment, batch)


@slow
def test_a_shard_that_is_deleted_with_its_rows_fails_the_batch_by_name(started: Started) -> None:
    deployment = started("node", "control", "beat")
    batch = deployment.submit(6)
    until("the batch is cut", lambda: batch.status().state is BatchState.IN_PROGRESS)
    shard = BatchObjects(batch.id).shard(1)
    deployment.artifacts.delete(shard)
    deployment.artifacts.delete(_input(deployment, batch))
    other = deployment.submit(2)
    deployment.start("render")
    # Its other job is rendered first, the rows are looked for for a minute, and the other batch has the slot meanwhile.
    until("the batch has failed", lambda: batch.status().state is BatchState.FAILED, timeout_s=400)
    assert shard in (batch.status().reason or "")
    deployment.batches[batch.id] = True  # nobody can say what its other images were
    ends_well(deployment, other)
    assert not deployment.ledger.jobs.any_unfinished(batch.id)


@slow
@pytest.mark.parametrize(
    "spoil",
    [
        _spoil(lambda o: o.image(0, 0, Format.PNG)),
        _spoil(lambda o: o.marker(BatchState.COMPLETED)),
        _spoil(lambda o: o.results),
        _spoil(lambda o: o.fragment(1)),
        _spoil(lambda o: o.manifest),
        _spoil(lambda o: o.manifest, body=b'{"schema_version": 1'),
    ],
    ids=["image", "marker", "results", "fragment", "batch.json", "batch.json damaged"],
)
def test_what_is_deleted_after_the_end_is_found_and_repaired(
    deployment: Deployment, spoil: Callable[[Deployment, Batch], None]
) -> None:
    batch = deployment.submit(6)
    batch.wait(timeout_s=300)
    spoil(deployment, batch)
    assert not batch.verify().ok
    _repaired(batch)
    ends_well(deployment, batch, harmed={_image(batch): 1})


@slow
@pytest.mark.parametrize("point", ["before it is cut", "before it ends", "before a retry", "before a purge"])
def test_a_repair_leads_to_the_truth_whatever_redis_was_rolled_back_to(deployment: Deployment, point: str) -> None:
    if point == "before it is cut":
        with deployment.s3_wire.breaking(method="PUT", key="/shards/00000", hold=True) as rule:
            batch = deployment.submit(6)
            assert rule.reached.wait(60)
            before = Snapshot.of(deployment.settings)
    elif point == "before it ends":
        batch = deployment.rendering(6)
        before = Snapshot.of(deployment.settings)
    else:
        batch = deployment.submit(6)
    batch.wait(timeout_s=300)
    if point == "before a retry":
        deployment.artifacts.delete(_image(batch))
        before = Snapshot.of(deployment.settings)
        _repaired(batch)
        batch.wait(timeout_s=300)
    elif point == "before a purge":
        before = Snapshot.of(deployment.settings)
        batch.purge()
        until("it is gone", lambda: not deployment.ledger.batches.known(batch.id))
    before.restore()
    if point == "before a purge":
        if deployment.ledger.batches.known(batch.id):
            batch.verify(repair=True)
        until("it is gone again", lambda: not deployment.ledger.batches.known(batch.id))
        deployment.batches[batch.id] = True
        return
    _repaired(batch)
    ends_well(deployment, batch, harmed={_image(batch): 1})


def _repaired(batch: Batch) -> None:
    """Ask for a repair, and look until nothing is wrong and nothing moves."""
    batch.verify(repair=True)

    def is_well() -> bool:
        found = batch.verify()
        return found.ok and not found.moving

    until("nothing is wrong with the batch", is_well)
