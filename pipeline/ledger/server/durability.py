"""Whether this Redis can be trusted with a ledger: one server, an append-only file, nothing evicted."""

from __future__ import annotations

from dataclasses import dataclass

import redis
import structlog

from pipeline.errors import LedgerUnavailable, SettingsError
from pipeline.ledger.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Trait:
    """One setting of Redis that the ledger depends on; `found` is None if neither INFO nor CONFIG shows it."""

    name: str
    found: str | None
    wanted: str
    why: str

    @property
    def wrong(self) -> bool:
        """Whether it is known to differ from what is wanted."""
        return self.found is not None and self.found != self.wanted

    def __str__(self) -> str:
        return f"{self.name} is {self.found}, {self.wanted} wanted: {self.why}"


def durability(store: Store) -> list[Trait]:
    """What this Redis reports. Managed services and ACL users may hide part of it. Raises LedgerUnavailable."""
    store.now()  # raises if Redis is away; what is missing below is then hidden
    aof, policy = _info(store, "persistence", "aof_enabled"), _info(store, "memory", "maxmemory_policy")
    return [
        Trait(
            "appendonly",
            {"1": "yes", "0": "no"}.get(aof or "") or _config(store, "appendonly"),
            "yes",
            "without it a restart of Redis loses the ledger (`tessera resume` rebuilds it)",
        ),
        Trait(
            "maxmemory-policy",
            policy or _config(store, "maxmemory-policy"),
            "noeviction",
            "with another one Redis drops records when it is full",
        ),
    ]


def check_durability(store: Store, *, refuse: bool) -> None:
    """Refuse a Redis Cluster; refuse a server that may lose records, or log a warning about it.

    Raises SettingsError, or LedgerUnavailable if it does not answer.
    """
    store.now()
    if _info(store, "cluster", "cluster_enabled") == "1":
        raise SettingsError(
            f"TESSERA_REDIS_URL: {store.where} is part of a Redis Cluster, which can be neither broker nor ledger; one "
            "Redis or Valkey wanted (with replicas, if you like)"
        )
    traits = durability(store)
    for trait in traits:
        if trait.found is None:
            log.warning("Redis does not say how durable it is", setting=trait.name, wanted=trait.wanted)
        elif trait.wrong and not refuse:
            log.warning("Redis may lose the ledger", setting=trait.name, found=trait.found, wanted=trait.wanted)
    if refuse and (wrong := [trait for trait in traits if trait.wrong]):
        raise SettingsError(
            f"Redis at {store.where} may lose the ledger, and TESSERA_REDIS_DURABILITY says to refuse that:\n"
            + "\n".join(f"  {trait}" for trait in wrong)
        )


def _info(store: Store, section: str, field: str) -> str | None:
    try:
        with store.errors():
            found = store.redis.info(section).get(field)
    except (LedgerUnavailable, redis.ResponseError):
        return None  # INFO is forbidden to this user
    return None if found is None else str(found)


def _config(store: Store, name: str) -> str | None:
    try:
        with store.errors():
            found = store.redis.config_get(name).get(name)
    except (LedgerUnavailable, redis.ResponseError):
        return None  # managed services hide CONFIG
    return None if found is None else str(found)
