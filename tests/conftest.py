"""Fixtures for every test that needs the real services: one Valkey and one SeaweedFS for the whole run."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.services.services import Services, no_proxy, running_services
from pipeline.deployment.settings import Settings, load_settings

# Triton reads it when it is imported, which torch may do before any test: kernels are interpreted here, not compiled.
os.environ["TRITON_INTERPRET"] = "1"

# What takes minutes comes first, so that no long file is left alone at the end, and has time for it on a slow machine.
_LONGEST = ("e2e", "neighbour", "faults")
# Coverage is of the control side; with each line of a render traced it takes twice as long.
_UNTRACED = ("distri", "training", "benchmarks", "e2e", "neighbour")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    folder = {item: item.path.relative_to(Path(__file__).parent).parts[0] for item in items}
    items.sort(key=lambda item: folder[item] not in _LONGEST)
    for item in items:
        if folder[item] in _LONGEST and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
    if config.pluginmanager.has_plugin("_cov"):
        for item in items:
            if folder[item] in _UNTRACED:
                item.add_marker("no_cover")


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Valkey and SeaweedFS; they die with pytest, however that ends."""
    with running_services(tmp_path_factory.mktemp("services"), timeout_s=120) as running:
        yield running


@pytest.fixture(autouse=True)
def torch_begins_anew() -> None:
    """What torch draws without a generator does not depend on the tests before."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture
def settings(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a deployment of the test's own, and this process's environment set so that boto3 is let in."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "TESSERA_"))]:
        monkeypatch.delenv(name)
    for name, value in (services.credentials | no_proxy(os.environ)).items():
        monkeypatch.setenv(name, value)
    own = f"test-{uuid.uuid4().hex[:12]}"
    where: dict[str, Any] = dict(services.settings)
    return load_settings(
        {},
        **where,
        redis_prefix=own,
        s3_prefix=own,
        launcher="local",
        device="cpu",
        dtype="float32",
        gpus=2,
        data_dir=tmp_path / "data",
        observe_s=0.1,
        tick_s=0.2,
    )
