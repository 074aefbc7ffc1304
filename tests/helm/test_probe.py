"""What a kubelet asks of our containers, answered by real workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.deployment.settings import Settings
from tasks.probe import main

ROLES = ["render", "control", "beat"]


@contextmanager
def _working(settings: Settings, role: str) -> Iterator[subprocess.Popen[bytes]]:
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks.worker", role],
        env=os.environ | settings.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def _until(answer: Callable[[], int], wanted: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while answer() != wanted:
        assert time.monotonic() < deadline, f"{wanted} never came"
        time.sleep(0.2)


@pytest.fixture
def deployed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings, in this process's environment as in a container's; patience is short."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tasks.probe.ANSWER_WITHIN_S", 1.0)
    return settings


@pytest.mark.parametrize("role", ROLES)
def test_a_container_is_ready_while_its_worker_works(deployed: Settings, role: str) -> None:
    assert main(["ready", role]) == 1
    with _working(deployed, role) as worker:
        _until(lambda: main(["ready", role]), 0, within_s=30)
        assert main(["alive", role]) == 0
        worker.kill()
        worker.wait()
        # Beat is missed only when its lock ends.
        _until(lambda: main(["alive", role]), 1, within_s=15)


def test_a_worker_of_another_host_does_not_answer_for_this_one(
    deployed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _working(deployed, "control"):
        _until(lambda: main(["ready", "control"]), 0, within_s=30)
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        assert main(["ready", "control"]) == 1


@pytest.mark.parametrize("role", ROLES)
def test_an_outage_of_redis_takes_work_away_and_kills_nobody(
    deployed: Settings, role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["ready", role]) == 1
    assert main(["alive", role]) == 0
    assert "does not answer" in capsys.readouterr().err


def test_a_redis_that_says_nothing_is_an_outage_too(deployed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("TESSERA_REDIS_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        monkeypatch.setattr("tasks.probe.REDIS_WITHIN_S", 0.5)
        began = time.monotonic()
        assert main(["alive", "render"]) == 0
        assert time.monotonic() - began < 2
