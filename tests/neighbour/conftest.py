"""Deployments of which each process may be of this version or of the one before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.services.services import Services
from tests.neighbour import older
from tests.neighbour.mixed import Mixed


@pytest.fixture(scope="session")
def older_version(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older packages, for PYTHONPATH."""
    return older.installed(pytestconfig.cache.mkdir("older-wheels"), tmp_path_factory.mktemp("older"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with random weights."""
    folder = tmp_path_factory.mktemp("model") / "demo"
    subprocess.run([sys.executable, "-P", "-m", "distri.demo_model", str(folder)], check=True, cwd=folder.parent)
    return folder


@pytest.fixture
def mixed(tmp_path: Path, services: Services, model: Path, older_version: Path) -> Iterator[Mixed]:
    """A deployment without a process."""
    deployment = Mixed(tmp_path / "data", services, model, older_version)
    yield deployment
    deployment.close()
