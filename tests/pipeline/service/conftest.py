"""One deployment whose pods commit without rendering, and its HTTP API on a port, for a module's tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.services.services import Services, no_proxy
from pipeline.client.connect import Connection
from pipeline.deployment.settings import load_settings
from tests.browser import browser
from tests.factories import MODELS
from tests.pipeline.service.person import Person
from tests.pipeline.service.served import Served
from tests.tasks.stage import Stage


@pytest.fixture(scope="module")
def served(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """It works by itself on whatever is submitted, unless a test holds it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "TESSERA_"))]:
            patch.delenv(name)
        for name, value in (services.credentials | no_proxy(os.environ)).items():
            patch.setenv(name, value)
        served = Served(_stage(services, tmp_path_factory.mktemp("data")))
        yield served
        served.close()


def _stage(services: Services, folder: Path) -> Stage:
    own = f"api-{os.getpid()}-{threading.get_ident() % 10_000}-{folder.name[-8:].strip('-').lower()}"
    where: dict[str, Any] = dict(services.settings)
    settings = load_settings(
        {},
        **where,
        redis_prefix=own[:40].strip("-"),
        s3_prefix=own,
        launcher="local",
        gpus=2,
        models=MODELS,
        images_per_job=50,
        observe_s=0.02,
        lease_s=5.0,
        data_dir=folder,
        api_upload_megabytes=2,
        webhook_key="0" * 64,
        tenants={"small": {"open_images": 3}},
    )
    return Stage(settings)


@pytest.fixture
def connection(served: Served) -> Connection:
    return served.connection


@pytest.fixture
def person(served: Served, tmp_path: Path) -> Iterator[Person]:
    with browser(tmp_path) as tab:
        yield Person(tab, served)
