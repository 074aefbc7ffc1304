"""Redis users, one a role, each with the least that it needs: key patterns, channels and commands as plain data.

Redis checks a script's own calls against the rights of who runs it, so these hold inside our Lua, too. A pod has no
right to a job's record, which holds the tokens of attempts: it reads tickets, and writes claims and the states of
images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Whoever connects: handshake, health check, and our scripts by their digest.
_EVERYBODY = "ping auth hello reset client|setinfo client|setname select time evalsha script|load script|exists"

# How probes ask workers whether they are there; see pipeline/deployment/broker.py.
_REMOTE_CONTROL = "&{p}:celery:/fanout.celery.pidbox"


@dataclass(frozen=True)
class Role:
    """Rights below one prefix; `{p}` stands for it. Keys that begin with `%R~` may only be read."""

    what: str
    keys: tuple[str, ...]
    channels: tuple[str, ...]
    commands: str


# The key `{p}` itself does not exist: our scripts name it, and build the others from it.
ROLES: Mapping[str, Role] = {
    "controller": Role(
        what="the controller and beat",
        keys=("~{p}", "~{p}:*"),
        channels=(_REMOTE_CONTROL,),
        commands="@read @write @transaction @pubsub @connection -@dangerous eval info",
    ),
    "worker": Role(
        what="render workers",
        keys=(
            "~{p}",
            "%R~{p}:deployment",
            "%R~{p}:draining",
            "%R~{p}:redbeat:*",  # a probe asks whether beat ticks
            *(f"~{{p}}:{name}:*" for name in ("batch", "job", "ticket", "claim", "backlog", "speed", "celery")),
            *(f"~{{p}}:{name}" for name in ("tenants", "delayed", "leases", "workers", "slots", "speeds")),
        ),
        channels=(_REMOTE_CONTROL,),
        commands="@read @write @transaction @pubsub @connection -@dangerous eval info",
    ),
    "pod": Role(
        what="render pods",
        keys=(
            "~{p}",
            "%R~{p}:batch:*",
            "%R~{p}:ticket:*",
            "~{p}:claim:*",
            *(f"~{{p}}:batch:*:{name}" for name in ("images", "counts", "events")),
        ),
        channels=(),
        commands="hget hmget hset hincrby bitfield xadd zscore",
    ),
    "client": Role(
        what="who submits, watches, cancels and downloads",
        keys=(
            "~{p}",
            "%R~{p}:deployment",
            "%R~{p}:workers",
            "%R~{p}:slots",
            "%R~{p}:draining",  # to drain is an operator's, with the controller's user
            "%R~{p}:leases",
            "%R~{p}:job:*",
            "%R~{p}:speeds",
            "%R~{p}:speed:*",
            "~{p}:schedules",
            "~{p}:schedule:*",
            "~{p}:batches",
            "~{p}:open",
            "~{p}:batch:*",
            "~{p}:celery:_kombu.binding*",
            "~{p}:celery:{p}.control*",
        ),
        channels=(),
        commands="get exists multi exec watch unwatch hget hgetall hset hincrby sadd srem smembers "
        "zadd zcard zrange zrevrange zrangebyscore zrem xadd xread bitfield lpush lrange ltrim llen del info",
    ),
}


def user_name(role: str, prefix: str) -> str:
    """Name of a role's user: two deployments in one Redis have their own."""
    return f"{prefix}-{role}"


def rules(role: str, prefix: str) -> list[str]:
    """What follows `ACL SETUSER NAME`, without a password: running it again brings a user's rights up to date."""
    rights = ROLES[role]
    commands = [word if word.startswith("-") else f"+{word}" for word in f"{_EVERYBODY} {rights.commands}".split()]
    return [
        "on",
        "resetkeys",
        *(pattern.replace("{p}", prefix) for pattern in rights.keys),
        "resetchannels",
        *(pattern.replace("{p}", prefix) for pattern in rights.channels),
        "-@all",
        *commands,
    ]
