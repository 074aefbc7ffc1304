"""The whole stack with harmless programs in the workers' place, through the functions that the client uses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis

from embedded.processes.on_demand import listen
from pipeline.client import local_stack
from pipeline.client.local_stack import StackState, running_stack, start_stack, stop_stack, wipe
from pipeline.deployment.model_file import add_model
from pipeline.deployment.settings import ModelSource, load_settings
from pipeline.errors import RequestError, ServiceError

_WORKERS = json.dumps({"control": ["sh", "-c", 'echo "$TESSERA_LAUNCHER $AWS_PROFILE" > worker; exec sleep 300']})


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "a folder"
    yield folder
    with contextlib.suppress(ProcessLookupError):
        stop_stack(folder)


def _start(data_dir: Path, **options: Any) -> StackState:
    return start_stack(data_dir, detached=True, timeout_s=300, no_model=True, **{"workers": _WORKERS} | options)


def _family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _redis(state: StackState) -> Any:
    return redis.Redis.from_url(state.environment["TESSERA_REDIS_URL"])


def _s3(state: StackState) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=state.environment["TESSERA_S3_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=state.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=state.environment["AWS_SECRET_ACCESS_KEY"],
    )


def test_the_life_of_a_stack(data_dir: Path, monkeypatch: pytest.MonkeyPatch, patience: Any) -> None:
    monkeypatch.setenv("AWS_PROFILE", "somebody-elses")
    monkeypatch.setenv("TESSERA_LAUNCHER", "kubernetes")
    assert running_stack(data_dir) is None
    told: list[str] = []
    (data_dir / "models").mkdir(parents=True)
    (data_dir / "models" / "left by an earlier version").touch(mode=0o644)
    add_model(data_dir, "own", ModelSource(path="/models/own.safetensors", revision="1"))
    before = os.umask(0o000)
    state = start_stack(
        data_dir, detached=True, timeout_s=300, on_progress=told.append, no_model=True, workers=_WORKERS
    )
    assert [line.split()[0] for line in told] == ["redis", "s3", "node"]
    assert running_stack(data_dir) == state
    os.umask(before)
    assert [str(path) for path in (data_dir, *data_dir.rglob("*")) if path.lstat().st_mode & 0o077] == []
    assert "open to others" in (data_dir / "logs" / "stack.log").read_text()

    environ = state.client_environment(os.environ)
    assert "AWS_PROFILE" not in environ
    settings = load_settings(environ)
    assert (settings.launcher, str(settings.layout), settings.data_dir) == ("local", "1x1x2", data_dir)
    assert settings.models["own"].path == "/models/own.safetensors"
    patience.until((data_dir / "worker").exists, what="the worker")
    assert (data_dir / "worker").read_text() == "local \n"

    assert _start(data_dir) == state  # up already: taken as it is
    second = subprocess.run(
        [sys.executable, "-P", "-m", "embedded.stack", "--data-dir", str(data_dir), "--no-model"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 2
    assert str(data_dir) in second.stderr
    with pytest.raises(RequestError, match="stop it first"):
        wipe(data_dir)

    _redis(state).set("kept", "yes")
    family = _family(state.pid)
    assert len(family) == 5  # supervisor, Redis, S3, node, one worker; the page runs once somebody asks for it
    assert state.page is not None
    with urllib.request.urlopen(f"{state.page}/healthz", timeout=300) as answer:  # noqa: S310  # our own server
        assert answer.status == 200
    family = _family(state.pid)
    assert len(family) == 6
    assert stop_stack(data_dir)
    patience.gone(*family)
    assert not stop_stack(data_dir)
    assert running_stack(data_dir) is None

    again = _start(data_dir)
    assert _redis(again).get("kept") == b"yes"
    assert stop_stack(data_dir)
    (data_dir / "mine.png").touch()
    wipe(data_dir)
    assert {path.name for path in data_dir.iterdir()} == {"worker", "mine.png", "models.json"}  # what is not ours stays


def test_killing_the_supervisor_leaves_data_and_no_process(data_dir: Path, patience: Any) -> None:
    state = _start(data_dir)
    family = _family(state.pid)
    assert len(family) == 5
    _redis(state).set("kept", "yes")
    _s3(state).put_object(Bucket="tessera", Key="kept", Body=b"yes")
    os.kill(state.pid, signal.SIGKILL)
    patience.gone(*family)
    assert running_stack(data_dir) is None
    assert not stop_stack(data_dir)
    again = _start(data_dir)
    assert again.environment["TESSERA_REDIS_URL"] == state.environment["TESSERA_REDIS_URL"]
    assert _redis(again).get("kept") == b"yes"
    assert _s3(again).get_object(Bucket="tessera", Key="kept")["Body"].read() == b"yes"


def test_a_child_that_dies_is_started_again_where_it_was(data_dir: Path, patience: Any) -> None:
    state = _start(data_dir)
    client = _redis(state)
    client.set("kept", "yes")
    before = _family(state.pid)
    for pid in before[1:]:
        os.kill(pid, signal.SIGKILL)
    patience.gone(*before[1:])
    patience.until(lambda: len(_family(state.pid)) == 5, what="five processes")

    def answers() -> bool:
        try:
            _s3(state).head_bucket(Bucket="tessera")
            return bool(client.get("kept") == b"yes")
        except Exception:  # noqa: BLE001 - away is what it may be
            return False

    patience.until(answers, what="services that answer again")
    assert running_stack(data_dir) == state


def test_a_stack_that_is_not_detached_dies_with_its_caller(data_dir: Path, patience: Any) -> None:
    caller = (
        "import sys, time; from pathlib import Path; from pipeline.client.local_stack import start_stack\n"
        "state = start_stack(Path(sys.argv[1]), detached=False, no_model=True, workers=sys.argv[2])\n"
        "time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", caller, str(data_dir), _WORKERS])
    state = patience.until(lambda: running_stack(data_dir), timeout_s=120, what="the stack")
    family = _family(state.pid)
    process.kill()
    process.wait()
    patience.gone(*family)


def test_a_stack_that_cannot_come_up_says_why_and_leaves_nothing(data_dir: Path) -> None:
    broken = json.dumps({"control": ["true"]})
    data_dir.mkdir()
    (data_dir / "services.json").write_text("not ours")
    with pytest.raises(ServiceError, match=r"(?s)did not start.*services\.json is not what this version writes"):
        _start(data_dir, workers=broken)
    assert running_stack(data_dir) is None


def test_a_port_that_is_taken_is_refused_if_it_was_wanted_and_else_replaced(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} .* --no-page"):
            _start(data_dir, port=port)
        with listen(None, usual=port) as other:
            assert other.getsockname()[1] != port


def test_asking_to_stop_while_it_starts_is_an_orderly_end(data_dir: Path, patience: Any) -> None:
    command = [sys.executable, "-P", "-m", "embedded.stack", "--data-dir", str(data_dir), "--no-model"]
    process = subprocess.Popen([*command, "--workers", _WORKERS], stderr=subprocess.DEVNULL)
    patience.until((data_dir / "logs" / "s3.log").exists, what="S3's log")
    children = _family(process.pid)[1:]
    process.terminate()
    assert process.wait(timeout=300) == 0
    patience.gone(*children)
    assert not (data_dir / "stack.json").exists()


def test_wiping_refuses_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(RequestError, match="not a data folder"):
        wipe(tmp_path)
    assert (tmp_path / "logs").exists()
    wipe(tmp_path / "never-there")


def test_a_stack_that_is_interrupted_before_it_holds_its_lock_is_ended(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_data_dir: Path) -> None:
        raise KeyboardInterrupt

    before = set(_family(os.getpid()))
    monkeypatch.setattr(local_stack, "running_stack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _start(data_dir)
    assert set(_family(os.getpid())) <= before
