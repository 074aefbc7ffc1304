"""The controller killed in the middle of its work, missing, or there twice; two releases in one Redis and bucket."""

from __future__ import annotations

import time

import pytest

from pipeline.deployment.broker import EXPAND, FINALIZE, RENDER, TICK, celery_app, send_hint
from pipeline.deployment.broker_keys import RENDER_QUEUE, queue_key
from pipeline.states import BatchState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries

slow = pytest.mark.slow_fault


@slow
def test_a_controller_killed_in_the_middle_of_an_expansion(deployment: Deployment, recoveries: Recoveries) -> None:
    with deployment.s3_wire.breaking(method="PUT", key="/shards/00001", hold=True) as rule:
        batch = deployment.submit(12)
        assert rule.reached.wait(60)
        killed = time.monotonic()
        deployment.replace("control")
    took = recoveries.after(
        "controller SIGKILLed in the middle of an expansion",
        "the batch is in progress",
        lambda: batch.status().state is BatchState.IN_PROGRESS,
        killed,
    )
    assert took < 45
    ends_well(deployment, batch)
    assert sum(batch.status().jobs.values()) == 3


@slow
def test_a_controller_killed_between_two_job_records(deployment: Deployment, recoveries: Recoveries) -> None:
    with deployment.redis_wire.stopping(b'"state":"queued"', b'"index":1,') as stop:
        batch = deployment.submit(12)
        assert stop.reached.wait(60)
        killed = time.monotonic()
        deployment.replace("control")
    recoveries.after(
        "controller SIGKILLed between two job records",
        "the batch is in progress",
        lambda: batch.status().state is BatchState.IN_PROGRESS,
        killed,
    )
    ends_well(deployment, batch)
    assert sum(batch.status().jobs.values()) == 3


@slow
@pytest.mark.parametrize("point", ["results.jsonl", "gallery/index.html", "_SUCCESS"])
def test_a_controller_killed_in_the_middle_of_a_finalization(
    deployment: Deployment, recoveries: Recoveries, point: str
) -> None:
    with deployment.s3_wire.breaking(method="PUT", key=f"/{point}$", hold=True) as rule:
        batch = deployment.submit(2)
        assert rule.reached.wait(90)
        assert batch.status().state is BatchState.FINALIZING
        killed = time.monotonic()
        deployment.replace("control")
    took = recoveries.after(
        f"controller SIGKILLed in a finalization, at {point}",
        "the batch is completed",
        lambda: batch.status().finished,
        killed,
    )
    assert took < 45
    ends_well(deployment, batch)


def test_controller_and_beat_killed_together_are_missed_by_nobody(deployment: Deployment) -> None:
    batch = deployment.submit()
    for part in ("control", "beat"):
        deployment.replace(part)
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
def test_two_controllers_and_two_beats_do_nothing_twice(started: Started, recoveries: Recoveries) -> None:
    deployment = started("node", "control-1", "control-2", "beat-1", "beat-2", "render-1", "render-2")
    batches = [deployment.submit(8) for _ in range(2)]
    app = celery_app(deployment.settings)
    for batch in batches:  # and every message twice
        for name in (EXPAND, FINALIZE):
            send_hint(app, name, batch.id)
        for name in (TICK, RENDER):
            send_hint(app, name)
    until("it renders", lambda: batches[0].status().succeeded)
    # Both may have stood still: which of the beats ticks is theirs to settle.
    for part in ("control-1", "beat-1"):
        deployment.kill(part)
    killed = time.monotonic()
    later = deployment.submit(2)
    recoveries.after(
        "one of two controllers and one of two beats SIGKILLed, never replaced",
        "a batch submitted at that moment has its first image",
        lambda: later.status().succeeded,
        killed,
    )
    for batch in (*batches, later):
        ends_well(deployment, batch)
        assert set(deployment.attempts(batch)) == {1}


@slow
def test_two_releases_share_one_redis_and_one_bucket(started: Started) -> None:
    """Names that run together, the same batch id in both, and each one's controller looking for orphans."""
    one, two = started(name="release"), started(name="release-b")
    batches = [(release, release.submit(6, batch_id="same")) for release in (one, two)]
    one.replace("control")
    for release, batch in batches:
        ends_well(release, batch)
        assert set(release.attempts(batch)) == {1}
        assert [each.id for each in release.client.batches()] == ["same"]


@slow
def test_hints_never_outnumber_free_slots(started: Started) -> None:
    """A long backlog stays in the ledger: the broker holds as many hints as workers could follow, and no more."""
    deployment = started("node", "control", "beat", worker_slots=2, images_per_job=1)
    for number in (1, 2):
        deployment.ledger.workers.report(f"nobody-{number}", 2)  # it reports, and takes nothing
    batch = deployment.submit(60)
    key = queue_key(deployment.settings.redis_prefix, RENDER_QUEUE)
    until("there are hints", lambda: deployment.ledger.workers.hints(key))
    longest = 0
    for _ in range(60):
        for number in (1, 2):
            deployment.ledger.workers.report(f"nobody-{number}", 2)
        longest = max(longest, deployment.ledger.workers.hints(key))
        time.sleep(0.1)
    assert longest == 4
    assert deployment.ledger.leases.backlog() == 60
    batch.cancel()
    ends_well(deployment, batch, BatchState.CANCELLED)
