"""Valkey and SeaweedFS as the stack runs them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from embedded.processes.child import Child, Program
from embedded.services import endpoints
from embedded.services.endpoints import PORT_NAMES, all_free, free_ports, load_endpoints
from embedded.services.readiness import NotReady, wait_until_ready
from embedded.services.services import Services, running_services
from pipeline.deployment.settings import Settings
from pipeline.errors import ServiceError


def _client(settings: Settings, **options: Any) -> Any:
    config = options.pop("config", Config(retries={"total_max_attempts": 1}))
    return boto3.client("s3", endpoint_url=settings.s3_endpoint, region_name="us-east-1", config=config, **options)


def _status(error: pytest.ExceptionInfo[ClientError]) -> int:
    return int(error.value.response["ResponseMetadata"]["HTTPStatusCode"])


def test_redis_keeps_what_it_is_told_and_evicts_nothing(settings: Settings) -> None:
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    client.set(f"{settings.redis_prefix}:x", "1")
    assert client.get(f"{settings.redis_prefix}:x") == b"1"
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert client.config_get("appendfsync") == {"appendfsync": "everysec"}


@pytest.mark.parametrize("user", ["", ":wrong@"])
def test_redis_refuses_who_has_not_the_password(services: Services, user: str) -> None:
    port = services.endpoints.ports["redis"]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(f"redis://{user}127.0.0.1:{port}/0").ping()


def test_an_object_is_put_once_only(settings: Settings) -> None:
    client = _client(settings)
    key = f"{settings.s3_prefix}/image.png"
    client.put_object(Bucket=settings.s3_bucket, Key=key, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=settings.s3_bucket, Key=key, Body=b"second", IfNoneMatch="*")
    assert _status(error) == 412
    assert client.get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read() == b"first"


def test_s3_refuses_strangers_and_wrong_secrets(settings: Settings, services: Services) -> None:
    for client in (
        _client(settings, config=Config(signature_version=UNSIGNED)),
        _client(settings, aws_access_key_id=services.endpoints.s3_access_key, aws_secret_access_key="wrong"),
        _client(settings, aws_access_key_id="wrong", aws_secret_access_key="wrong"),
    ):
        with pytest.raises(ClientError) as error:
            client.list_objects_v2(Bucket=settings.s3_bucket)
        assert _status(error) == 403


def test_a_bucket_that_is_not_there_is_not_made_by_an_upload(settings: Settings) -> None:
    with pytest.raises(ClientError) as error:
        _client(settings).put_object(Bucket="another", Key="x", Body=b"")
    assert _status(error) == 404


@pytest.mark.parametrize("inner", ["filer", "volume"])
def test_the_inner_services_of_s3_hand_out_nothing(services: Services, inner: str) -> None:
    with socket.create_connection(("127.0.0.1", services.endpoints.ports[inner]), timeout=300) as connection:
        connection.sendall(b"POST /buckets/tessera/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert connection.recv(64).split()[1] in (b"401", b"400")


def test_everything_listens_on_the_loopback_and_on_ports_of_ours_only(services: Services) -> None:
    listening = set()
    for pid in (services.redis.pid, services.s3.pid):
        sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    address, port = fields[1].split(":")
                    assert address == "0100007F"
                    listening.add(int(port, 16))
    assert listening == set(services.endpoints.ports.values())


def test_secrets_stand_in_private_files_and_on_no_command_line(services: Services) -> None:
    endpoints = services.endpoints
    secrets = [endpoints.redis_password, endpoints.s3_secret_key, endpoints.s3_internal_key]
    for child in (services.redis, services.s3):
        command = Path(f"/proc/{child.pid}/cmdline").read_text() + " ".join(child.program.command)
        assert not any(secret in command for secret in secrets)
        assert not any(secret in child.program.log.read_text() for secret in secrets)
    data_dir = services.redis.program.folder.parent
    for file in (data_dir / "services.json", data_dir / "redis" / "valkey.conf"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_restart_on_the_same_folder_keeps_data_and_lets_the_same_clients_in(tmp_path: Path) -> None:
    with running_services(tmp_path / "d") as first:
        redis.Redis.from_url(first.endpoints.redis_url).set("kept", "yes")
        _put(first, b"kept")
        # One port is taken when they come back, so they come back elsewhere, with the same credentials.
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", first.endpoints.ports["s3"]))
        squatter.listen()
        with running_services(tmp_path / "d") as second:
            assert second.endpoints.ports != first.endpoints.ports
            assert second.credentials == first.credentials
            assert redis.Redis.from_url(second.endpoints.redis_url).get("kept") == b"yes"
            assert _get(second) == b"kept"
            second.redis.send(signal.SIGKILL)
            second.s3.send(signal.SIGKILL)
    with running_services(tmp_path / "d") as third:
        assert third.endpoints == second.endpoints
        assert redis.Redis.from_url(third.endpoints.redis_url).get("kept") == b"yes"
        assert _get(third) == b"kept"
    assert not _sockets(first) | _sockets(second)


def test_a_port_that_is_taken_before_the_service_has_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs have looked, and found the port free."""
    looked, looks = free_ports(), iter([True])
    monkeypatch.setattr(
        endpoints, "free_ports", lambda: looked if not (tmp_path / "d" / "s3").exists() else free_ports()
    )
    monkeypatch.setattr(endpoints, "all_free", lambda known: next(looks, False) or all_free(known))
    port = looked["admin"]
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with running_services(tmp_path / "d") as services:
            assert services.endpoints.ports != looked
            assert port not in services.endpoints.ports.values()
            assert redis.Redis.from_url(services.endpoints.redis_url).ping()


def _sockets(services: Services) -> set[str]:
    """Those of its own; other stacks come and go meanwhile, and killed ones left theirs."""
    ports = services.endpoints.ports
    own = {
        f"seaweedfs-{name.removesuffix('_grpc')}-grpc-{ports[name]}.sock" for name in ports if name.endswith("_grpc")
    }
    assert len(own) == 5
    return own & {path.name for path in Path("/tmp").glob("seaweedfs-*.sock")}  # noqa: S108 - weed's choice


def _s3(services: Services) -> Any:
    endpoints = services.endpoints
    return boto3.client(
        "s3",
        endpoint_url=endpoints.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=endpoints.s3_access_key,
        aws_secret_access_key=endpoints.s3_secret_key,
    )


def _put(services: Services, body: bytes) -> None:
    _s3(services).put_object(Bucket="tessera", Key="kept", Body=body)


def _get(services: Services) -> bytes:
    return bytes(_s3(services).get_object(Bucket="tessera", Key="kept")["Body"].read())


def test_kept_ports_are_used_again_while_they_are_free(tmp_path: Path) -> None:
    first = load_endpoints(tmp_path)
    assert load_endpoints(tmp_path) == first
    assert set(first.ports) == set(PORT_NAMES)


def test_an_identity_that_cannot_be_read_is_an_error_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text("{}")
    with pytest.raises(ServiceError, match=r"services\.json"):
        load_endpoints(tmp_path)
    assert (tmp_path / "services.json").read_text() == "{}"


def _program(folder: Path, script: str, lock: Path | None = None) -> Program:
    return Program("broken", ["sh", "-c", script], dict(os.environ), folder, folder / "broken.log", lock)


def test_a_service_that_ends_at_once_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child(_program(tmp_path, "echo no luck with redis://me:secret@host; exit 7"))
    child.start()

    def check() -> None:
        raise NotReady("connection refused")

    with pytest.raises(ServiceError, match=r"(?s)broken ended.*code 7.*broken\.log.*no luck with redis://\*\*\*@host"):
        wait_until_ready(child, check, deadline=float("inf"))


def test_a_service_that_never_answers_is_given_up(tmp_path: Path) -> None:
    child = Child(_program(tmp_path, "exec sleep 300"))
    child.start()

    def check() -> None:
        raise NotReady("connection refused")

    with pytest.raises(ServiceError, match="connection refused"):
        wait_until_ready(child, check, deadline=0.0)
    child.send(signal.SIGKILL)


def test_two_servers_never_share_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedded.processes.child._PREDECESSOR_S", 0.1)
    first = Child(_program(tmp_path, "exec sleep 300", lock=tmp_path / "lock"))
    second = Child(_program(tmp_path, "exec sleep 300", lock=tmp_path / "lock"))
    first.start()
    with pytest.raises(ServiceError, match="another broken works on"):
        second.start()
    first.send(signal.SIGKILL)
    monkeypatch.setattr("embedded.processes.child._PREDECESSOR_S", 60.0)
    second.start()  # the lock went with the process that held it
    second.send(signal.SIGKILL)


def test_a_child_is_started_from_the_main_thread_only(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def start() -> None:
        try:
            Child(_program(tmp_path, "true")).start()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(raised) == 1
