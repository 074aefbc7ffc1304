"""Credentials and ports of the services of one data folder: kept from start to start, ports only if they are free.

Stored in a file of mode 0600; none of it appears on a command line.
"""

from __future__ import annotations

import random
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict

from pipeline.errors import RecordUnreadable, ServiceError
from pipeline.process.files import write_private
from pipeline.schema import read_record
from pipeline.stored import Record

SCHEMA_VERSION = 1
LOOPBACK = "127.0.0.1"
PORT_NAMES = (
    "redis",
    "s3",
    "s3_grpc",
    "filer",
    "filer_grpc",
    "volume",
    "volume_grpc",
    "master",
    "master_grpc",
    "admin",
    "admin_grpc",
)

# Below the range of ports of outgoing connections. In that range, a client that reconnects while the service is down
# can get the service's port as its own, connect to itself, and so keep the service from starting again.
_PORTS = range(20_000, 32_000)


class Endpoints(Record):
    """Where the two services listen, and the credentials that they accept."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    redis_password: str
    s3_access_key: str
    s3_secret_key: str
    s3_internal_key: str
    ports: Mapping[str, int]

    @property
    def redis_url(self) -> str:
        """URL of the Redis, with its password."""
        return f"redis://:{self.redis_password}@{LOOPBACK}:{self.ports['redis']}/0"

    @property
    def s3_endpoint(self) -> str:
        """URL of the S3 endpoint."""
        return f"http://{LOOPBACK}:{self.ports['s3']}"


def load_endpoints(data_dir: Path) -> Endpoints:
    """The endpoints kept in `data_dir`, or new ones; ports taken meanwhile are replaced. Writes them back."""
    path = data_dir / "services.json"
    try:
        known = read_record(Endpoints, path.read_bytes(), what=str(path))
    except FileNotFoundError:
        known = Endpoints(
            redis_password=secrets.token_hex(24),
            s3_access_key=secrets.token_hex(10).upper(),
            s3_secret_key=secrets.token_hex(24),
            s3_internal_key=secrets.token_hex(24),
            ports=free_ports(),
        )
    except RecordUnreadable as error:
        raise ServiceError(
            f"{path} is not what this version writes there ({error.found} found); the credentials of the "
            f"data beside it are lost. Wipe {data_dir} or name another folder."
        ) from error
    if set(known.ports) != set(PORT_NAMES) or not all_free(known):
        known = known.model_copy(update={"ports": free_ports()})
    write_private(path, known.model_dump_json(indent=2))
    return known


def free_ports() -> dict[str, int]:
    """A free loopback port for each name."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if is_free(port):
            found.append(port)
        if len(found) == len(PORT_NAMES):
            return dict(zip(PORT_NAMES, found, strict=True))
    raise ServiceError(f"fewer than {len(PORT_NAMES)} free ports between {_PORTS.start} and {_PORTS.stop}")


def all_free(endpoints: Endpoints) -> bool:
    """Whether servers could listen on all of its ports now."""
    return all(is_free(port) for port in endpoints.ports.values())


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now; connections that linger in TIME_WAIT do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
