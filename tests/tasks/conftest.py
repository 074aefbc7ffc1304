"""A deployment whose node the test plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.deployment.settings import Settings, load_settings
from tasks.jobs import retry_policy, shards
from tests.factories import MODELS
from tests.tasks.stage import Stage


@pytest.fixture
def stage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Its delays are short; an attempt commits everything and succeeds unless the test says otherwise."""
    for name in ("FIRST_DELAY_S", "FIRST_DISRUPTION_DELAY_S"):
        monkeypatch.setattr(retry_policy, name, 0.05)
    monkeypatch.setattr(shards, "LATE_S", 0.0)  # what is not there is gone
    changes: dict[str, Any] = {"models": MODELS, "images_per_job": 3, "observe_s": 0.02, "lease_s": 10.0}
    stage = Stage(load_settings(settings.environment(), **changes))
    yield stage
    stage.close()
