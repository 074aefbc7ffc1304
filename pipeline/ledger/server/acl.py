"""Redis users, one for each role, with no more rights than it needs: key patterns, channels, commands as plain data.

Redis checks a script's own calls against the rights of who runs it, so they hold inside our scripts, too. A pod has no
right to a job's record, which holds the tokens of attempts: it reads tickets, and writes claims and the states of
images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.deployment.broker_keys import (
    beat_prefix,
    broker_prefix,
    remote_control_channel,
)
from pipeline.ledger.keys import Keys

_P = "{p}"  # in place of a deployment's prefix
_KEYS = Keys(_P)
_ANY = "*"

# Of every role: handshake, health check, and our scripts by their digest.
_COMMON_COMMANDS = "ping auth hello reset client|setinfo client|setname select time evalsha script|load script|exists"

# All that is kept for a batch, or for a schedule, begins with its own key.
_BATCHES, _SCHEDULES = _KEYS.batch(_ANY), _KEYS.schedule(_ANY)


@dataclass(frozen=True)
class Role:
    """Rights below one prefix; `{p}` stands for it. Keys of `reads` may only be read.

    The key `{p}` itself does not exist: our scripts name it, and build the others from it.
    """

    what: str
    commands: str
    writes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


_CLIENT = Role(
    what="who submits, watches, cancels and downloads",
    commands="get mget set exists multi exec watch unwatch hget hgetall hset hdel hincrby sadd srem smembers "
    "zadd zcard zrange zrevrange zrangebyscore zrem xadd xread bitfield lrange del info",
    writes=(
        _KEYS.schedules,
        _SCHEDULES,
        _KEYS.batches,
        _KEYS.open,
        _BATCHES,
        _KEYS.wakes,
        _KEYS.endpoints,
        _KEYS.watched,
        _KEYS.delivery(_ANY),
        _KEYS.undelivered,
    ),
    reads=(
        _KEYS.deliveries,
        _KEYS.deployment,
        _KEYS.generation,  # `doctor` says whether the ledger is in doubt
        _KEYS.workers,
        _KEYS.slots,
        _KEYS.dead_letters,  # `doctor` warns of them
        _KEYS.draining,  # only operators drain workers, as the controller's user
        _KEYS.leases,
        _KEYS.job(_ANY),
        _KEYS.speeds,
        _KEYS.speed(_ANY),
    ),
)

ROLES: Mapping[str, Role] = {
    "controller": Role(
        what="the controller and beat",
        commands="@read @write @transaction @pubsub @connection -@dangerous eval info",
        writes=(f"{_P}:*",),
        channels=(remote_control_channel(_P),),
    ),
    "worker": Role(
        what="render workers",
        commands="@read @write @transaction @pubsub @connection -@dangerous eval info",
        writes=(
            _BATCHES,
            _KEYS.job(_ANY),
            _KEYS.ticket(_ANY),
            _KEYS.claim(_ANY),
            _KEYS.backlog(_ANY),
            _KEYS.speed(_ANY),
            f"{broker_prefix(_P)}*",
            _KEYS.tenants,
            _KEYS.delayed,
            _KEYS.leases,
            _KEYS.workers,
            _KEYS.slots,
            _KEYS.speeds,
            _KEYS.dead_letters,
            _KEYS.open,  # a batch that can never go on
            _KEYS.watched,
            _KEYS.lock(_ANY),
            _KEYS.absent(_ANY),
            _KEYS.trial(_ANY),
            _KEYS.refusal(_ANY),
        ),
        reads=(
            _KEYS.deployment,
            _KEYS.generation,
            _KEYS.draining,
            f"{beat_prefix(_P)}*",
        ),  # a probe asks whether beat ticks
        channels=(remote_control_channel(_P),),
    ),
    "pod": Role(
        what="render pods",
        commands="hget hmget hset hincrby bitfield xadd zscore",
        writes=(_KEYS.claim(_ANY), _KEYS.images(_ANY), _KEYS.counts(_ANY), _KEYS.events(_ANY)),
        reads=(_BATCHES, _KEYS.ticket(_ANY)),
    ),
    "client": _CLIENT,
    "api": Role(
        what="the HTTP API, which acts for its tenants: a client that checks tokens and counts their uses",
        commands=f"{_CLIENT.commands} incr expire zrevrank",
        writes=(*_CLIENT.writes, _KEYS.share(_ANY), _KEYS.rate(_ANY)),
        reads=(*_CLIENT.reads, _KEYS.tokens),
    ),
}


def user_name(role: str, prefix: str) -> str:
    """Name of a role's user; each deployment in a Redis has its own."""
    return f"{prefix}-{role}"


def rules(role: str, prefix: str) -> list[str]:
    """What follows `ACL SETUSER NAME`, without a password: running it again brings a user's rights up to date."""
    rights = ROLES[role]
    words = f"{_COMMON_COMMANDS} {rights.commands}".split()
    patterns = (f"~{_P}", *(f"%R~{key}" for key in rights.reads), *(f"~{key}" for key in rights.writes))
    return [
        "on",
        "resetkeys",
        *(pattern.replace(_P, prefix) for pattern in patterns),
        "resetchannels",
        *(f"&{channel.replace(_P, prefix)}" for channel in rights.channels),
        "-@all",
        *(word if word.startswith("-") else f"+{word}" for word in words),
    ]
