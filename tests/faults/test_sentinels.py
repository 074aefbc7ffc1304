"""The primary is killed for good in mid-render, and Redis Sentinel makes its replica the primary."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from embedded.services.services import Services
from tests.faults.conftest import PARTS
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries
from tests.sentinels import watched


class _Watched(Deployment):
    """Its processes ask the sentinels, over no wire."""

    @property
    def over_the_wires(self) -> dict[str, str]:
        return super().over_the_wires | {"TESSERA_REDIS_URL": self.settings.redis_url.get_secret_value()}


@pytest.mark.slow_fault
def test_a_failover_in_mid_render_loses_no_batch(
    tmp_path: Path, services: Services, model: Path, recoveries: Recoveries
) -> None:
    with watched(tmp_path / "redis") as redis:
        deployment = _Watched(tmp_path / "data", services, model, redis_url=redis.url)
        try:
            deployment.start(*PARTS)
            ledger = deployment.ledger
            until("the controller is there", lambda: ledger.store.redis.exists(ledger.store.keys.deployment))
            until("the worker is there", ledger.workers.free_slots)
            batch = deployment.rendering()
            ledger.store.redis.wait(1, 5_000)
            redis.kill_primary()
            killed = time.monotonic()
            until("the replica is the primary", lambda: redis.primary_port() == redis.ports[1])
            recoveries.after(
                "the primary of a Redis Sentinel killed for good in mid-render",
                "the ledger is up to what was committed",
                lambda: batch.status().succeeded == deployment.images_put(batch),
                killed,
            )
            later = deployment.submit(2)
            for each in (batch, later):
                ends_well(deployment, each)
        finally:
            deployment.close()
