"""A Redis that is no place for a ledger is refused, or warned of, before anything depends on it."""

from __future__ import annotations

import dataclasses
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from embedded.processes.child import Child
from embedded.services.endpoints import load_endpoints
from embedded.services.readiness import wait_until_ready
from embedded.services.valkey import check_valkey, valkey
from pipeline.deployment.settings import Settings
from pipeline.errors import LedgerUnavailable, SettingsError
from pipeline.ledger import Ledger
from pipeline.ledger.server.durability import check_durability, durability


@pytest.fixture
def redis_with(tmp_path: Path, settings: Settings) -> Iterator[Callable[..., Ledger]]:
    """Start a Redis with these options; the ledger on it."""
    started: list[Child] = []

    def start(*options: str) -> Ledger:
        folder = tmp_path / "redis"
        (folder / "logs").mkdir(parents=True)
        endpoints = load_endpoints(folder)
        program = valkey(endpoints, folder, {})
        # A cluster's bus listens on a port of its own: by default 10,000 above, among those of outgoing connections.
        bus = str(endpoints.ports["admin"])
        server = Child(dataclasses.replace(program, command=[*program.command, "--cluster-port", bus, *options]))
        started.append(server)
        server.start()
        wait_until_ready(server, lambda: check_valkey(endpoints), time.monotonic() + 60)
        return Ledger(Settings.model_validate(settings.model_dump() | {"redis_url": endpoints.redis_url}))

    yield start
    for server in started:
        server.send(signal.SIGKILL)


def test_a_cluster_is_refused_whatever_the_setting_and_said_of_what_was_found(
    redis_with: Callable[..., Ledger],
) -> None:
    ledger = redis_with("--cluster-enabled", "yes")
    for refuse in (True, False):
        with pytest.raises(SettingsError, match=r"127\.0\.0\.1.* is part of a Redis Cluster.*one Redis or Valkey"):
            check_durability(ledger.store, refuse=refuse)
    with pytest.raises(LedgerUnavailable, match="is part of a Redis Cluster"):
        ledger.batches.state("b")


def test_one_that_may_lose_records_is_warned_of_or_refused_by_setting(redis_with: Callable[..., Ledger]) -> None:
    ledger = redis_with("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    with capture_logs() as logs:
        check_durability(ledger.store, refuse=False)
    assert [(line["setting"], line["found"]) for line in logs] == [
        ("appendonly", "no"),
        ("maxmemory-policy", "allkeys-lru"),
    ]
    with pytest.raises(
        SettingsError, match=r"(?s)REDIS_DURABILITY.*appendonly is no, yes wanted.*allkeys-lru"
    ) as error:
        check_durability(ledger.store, refuse=True)
    assert "***@" in str(error.value)


@pytest.mark.parametrize(
    ("forbidden", "found"),
    [
        (["-config"], ["yes", "noeviction"]),  # as managed services do
        (["-info"], ["yes", "noeviction"]),
        (["-config", "-info"], [None, None]),
    ],
)
def test_what_a_restricted_user_cannot_see_is_not_held_against_redis(
    settings: Settings, services: object, forbidden: list[str], found: list[str | None]
) -> None:
    url = settings.redis_url.get_secret_value()
    admin = redis.Redis.from_url(url)
    name, password = f"user{secrets.token_hex(4)}", secrets.token_hex(8)
    admin.acl_setuser(name, enabled=True, passwords=[f"+{password}"], keys=["*"], commands=["+@all", *forbidden])
    try:
        place = url.rpartition("@")[2]
        own = Settings.model_validate(settings.model_dump() | {"redis_url": f"redis://{name}:{password}@{place}"})
        store = Ledger(own).store
        assert [trait.found for trait in durability(store)] == found
        with capture_logs() as logs:
            check_durability(store, refuse=True)
        assert len(logs) == found.count(None)
    finally:
        admin.acl_deluser(name)
        admin.close()
