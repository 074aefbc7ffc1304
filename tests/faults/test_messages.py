"""Messages of strangers in the queues of a deployment that works."""

from __future__ import annotations

import pytest

from pipeline.deployment.broker_keys import CONTROL_QUEUE, RENDER_QUEUE, queue_key
from tests.faults.conftest import Started
from tests.faults.deployment import until
from tests.faults.invariants import ends_well
from tests.tasks.process.test_incoming import POISON


@pytest.mark.slow_fault
def test_poison_pushed_in_mid_render_harms_nothing(started: Started) -> None:
    deployment = started("node", "control", "beat", "render")
    pids = {name: deployment.pid(name) for name in ("control", "render")}
    batch = deployment.rendering()
    redis = deployment.ledger.store.redis
    queues = [queue_key(deployment.settings.redis_prefix, queue) for queue in (CONTROL_QUEUE, RENDER_QUEUE)]
    for queue in queues:
        redis.lpush(queue, *(raw for raw, _reason in POISON.values()))
    until("they are taken out", lambda: not any(map(redis.llen, queues)))
    later = deployment.submit(2)
    for each in (batch, later):
        ends_well(deployment, each)
    assert {name: deployment.pid(name) for name in pids} == pids
    assert {letter.reason for letter in deployment.ledger.dead_letters.newest()} == {
        why for _raw, why in POISON.values()
    }
