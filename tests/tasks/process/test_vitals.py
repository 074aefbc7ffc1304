"""The files that a kubelet's probes read: fresh while the worker works, alive but not ready in an outage of Redis."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import LedgerUnavailable
from tasks.process.vitals import Vitals
from tests.helm.chart import render


def _raises(error: Exception) -> Callable[[], bool]:
    def asked() -> bool:
        raise error

    return asked


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_files_say_what_the_worker_is(tmp_path: Path) -> None:
    outage = _raises(LedgerUnavailable("Redis does not answer"))
    answers: Iterator[Callable[[], bool]] = iter([lambda: True, lambda: False, outage, lambda: True])

    def asked() -> bool:
        return next(answers)()

    vitals = Vitals(tmp_path, "render", asked)
    vitals.look()
    assert _files(tmp_path) == ["render.alive", "render.ready"]
    for name in ("render.alive", "render.ready"):
        os.utime(tmp_path / name, (1, 1))
    vitals.look()  # it does not answer: alive grows old, until the kubelet restarts it
    assert _files(tmp_path) == ["render.alive"]
    assert (tmp_path / "render.alive").stat().st_mtime == 1
    vitals.look()  # an outage
    assert _files(tmp_path) == ["render.alive"]
    assert (tmp_path / "render.alive").stat().st_mtime > 1
    vitals.look()
    assert _files(tmp_path) == ["render.alive", "render.ready"]
    Vitals(tmp_path, "render", lambda: True)  # the next container of this pod
    assert _files(tmp_path) == []


def test_it_goes_on_looking_whatever_happens_and_is_not_ready_once_it_stops(tmp_path: Path) -> None:
    stopping, seen = threading.Event(), 0

    def asked() -> bool:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise ValueError("a bug")
        stopping.set()
        return True

    Vitals(tmp_path, "render", asked).follow(stopping, every_s=0.01)
    assert seen == 2
    assert _files(tmp_path) == ["render.alive"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_charts_probes_read_the_age_of_these_files(tmp_path: Path, probe: str) -> None:
    for deployment in (one for one in render({}).objects if one["kind"] == "Deployment"):
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        role = container["command"][4]
        assert container["command"][5:] == ["--vitals", "/tmp"]  # noqa: S108 - of a container
        shell, flag, line = container[probe]["exec"]["command"]
        line = line.replace("/tmp/", f"{tmp_path}/")  # noqa: S108

        def answer(command: list[str]) -> int:
            return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode

        assert answer([shell, flag, line]) == 1
        Vitals(tmp_path, role, lambda: True).look()
        assert answer([shell, flag, line]) == 0
        for file in tmp_path.iterdir():
            os.utime(file, (1, 1))
        assert answer([shell, flag, line]) == 1
