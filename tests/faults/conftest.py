"""Deployments to break: services for all tests of this folder, and a deployment for each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.services.services import Services, running_services
from tests.faults.deployment import Deployment, until
from tests.faults.recovery import Recoveries

Started = Callable[..., Deployment]

_PASSED = pytest.StashKey[bool]()

PARTS = ("node", "control", "render", "beat")


@pytest.fixture(scope="package")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Valkey and SeaweedFS of this folder's own: what is done to them here harms no other test."""
    with running_services(tmp_path_factory.mktemp("services")) as running:
        yield running


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, written once."""
    folder = tmp_path_factory.mktemp("model") / "demo"
    subprocess.run([sys.executable, "-P", "-m", "distri.demo_model", str(folder)], check=True, cwd=folder.parent)
    return folder


@pytest.fixture
def started(tmp_path: Path, services: Services, model: Path) -> Iterator[Started]:
    """Makes deployments, with their parts started; every batch of theirs must be seen to end as it should."""
    made: list[Deployment] = []

    def start(*parts: str, name: str = "", **settings: Any) -> Deployment:
        deployment = Deployment(tmp_path / f"data-{len(made)}", services, model, name, **settings)
        made.append(deployment)
        deployment.start(*(parts or PARTS))
        workers = sum(part.startswith("render") for part in parts or PARTS)
        until(
            "the controller is there",
            lambda: deployment.ledger.store.redis.exists(deployment.ledger.store.keys.deployment),
        )
        until("the workers are there", lambda: len(deployment.ledger.workers.free_slots()) == workers)
        return deployment

    yield start
    for deployment in made:
        deployment.close()
    unasked = [batch_id for deployment in made for batch_id, asked in deployment.batches.items() if not asked]
    assert not unasked, f"nobody asked for the invariants of {unasked}"


@pytest.fixture
def deployment(started: Started) -> Deployment:
    """One of each part."""
    return started()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave with each test whether it passed, for `recoveries`."""
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def recoveries(request: pytest.FixtureRequest) -> Iterator[Recoveries]:
    """Where measured recoveries go: those of a test that passed, into the file that FAULTS_RESULTS names."""
    found = Recoveries()
    yield found
    path = os.environ.get("FAULTS_RESULTS")
    if path and request.node.stash.get(_PASSED, False):
        found.write(Path(path))
