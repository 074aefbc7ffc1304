"""The ledger and the artifacts of a deployment of the test's own."""

from __future__ import annotations

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings)


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings)
