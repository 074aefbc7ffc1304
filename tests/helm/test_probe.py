"""What a kubelet asks of our containers, answered by real workers in the chart's own words."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.deployment.settings import Settings
from tests.helm.chart import of_kind, render
from tests.wire import Wire

ROLES = ["render", "control", "beat"]
PROBES = ["startupProbe", "livenessProbe", "readinessProbe"]

# The worker, whose loop hangs on a signal; its other threads go on. It leaves a file once it has missed ten pulses.
WORKER = """
import os, pathlib, signal, sys, time
import tasks.process.pulse as pulse
pulse.PULSE_S = 0.1
role, folder = sys.argv[1], pathlib.Path(sys.argv[3])
def hang(*_):
    for file in folder.glob(f"{role}.*"):
        os.utime(file, (1, 1))
    time.sleep(10 * pulse.PULSE_S)
    (folder / f"{role}-hangs").touch()
    time.sleep(600)
signal.signal(signal.SIGRTMIN, hang)
from tasks.worker import main
sys.exit(main(sys.argv[1:]))
"""


def _until(holds: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)


class _Container:
    """A worker as the chart starts it, in a folder of its own instead of /tmp."""

    def __init__(self, role: str, spec: dict[str, dict[str, dict[str, list[str]]]], folder: Path) -> None:
        self.role, self._spec, self.folder = role, spec, folder
        self.command = [self._here(word) for word in spec["command"]]
        self.process: subprocess.Popen[bytes] | None = None

    def _here(self, word: str) -> str:
        return word.replace("/tmp", str(self.folder))  # noqa: S108 - of a container

    def start(self, environment: dict[str, str]) -> None:
        assert self.command[:4] == ["python", "-P", "-m", "tasks.worker"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, *self.command[4:]],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def passes(self, probe: str) -> bool:
        command = [self._here(word) for word in self._spec[probe]["exec"]["command"]]
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0

    def make_old(self) -> None:
        for file in self.folder.glob(f"{self.role}.*"):
            os.utime(file, (1, 1))


@pytest.fixture
def wire(settings: Settings) -> Iterator[Wire]:
    wire = Wire(urlsplit(settings.redis_url.get_secret_value()).port or 6379)
    yield wire
    wire.close()


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[list[_Container]]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    specs = [
        deployment["spec"]["template"]["spec"]["containers"][0]
        for deployment in of_kind(render().objects, "Deployment").values()
    ]
    containers = [_Container(spec["command"][4], spec, folder) for spec in specs]
    assert sorted(container.role for container in containers) == sorted(ROLES)
    yield containers
    for container in containers:
        if container.process is not None:
            container.process.kill()
            container.process.wait()


def test_probes_pass_while_a_worker_works_or_waits_for_redis_and_fail_once_its_loop_hangs(
    containers: list[_Container], settings: Settings, wire: Wire
) -> None:
    assert not any(container.passes(probe) for container in containers for probe in PROBES)
    url = urlsplit(settings.redis_url.get_secret_value())
    through = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{wire.port}")).geturl()
    environment = os.environ | settings.environment() | {"TESSERA_REDIS_URL": through}
    for container in containers:
        container.start(environment)
    for container in containers:
        for probe in PROBES:
            _until(lambda: container.passes(probe), f"{probe} of {container.role}")  # noqa: B023 - at once
        container.make_old()
        _until(lambda: container.passes("readinessProbe"), f"a second pulse of {container.role}")  # noqa: B023

    wire.turn("cut")
    for container in containers:
        _until(lambda: not container.passes("readinessProbe"), f"{container.role} not ready")  # noqa: B023
        container.make_old()
        _until(lambda: container.passes("livenessProbe"), f"{container.role} alive in an outage")  # noqa: B023
        assert not container.passes("readinessProbe")

    wire.turn("pass")
    for container in containers:
        _until(lambda: container.passes("readinessProbe"), f"{container.role} ready again")  # noqa: B023

    for container in containers:
        assert container.process is not None
        container.process.send_signal(signal.SIGRTMIN)
    for container in containers:
        hangs = container.folder / f"{container.role}-hangs"
        _until(hangs.exists, f"{container.role} hangs")
        assert container.process is not None
        assert container.process.poll() is None
        assert not any(container.passes(probe) for probe in PROBES)


def test_a_probe_costs_next_to_nothing(containers: list[_Container]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = 10
    for _ in range(times):
        for probe in PROBES:
            containers[0].passes(probe)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s / (times * len(PROBES)) < 0.02
