"""Beat waits an outage of Redis out, as every other process does."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from pipeline.deployment.broker import celery_app
from pipeline.deployment.settings import Settings
from tasks import worker
from tasks.process.pulse import Pulse


class _Beats:
    """Beats that end with these errors, one after the other, and then in order."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.begun = 0

    def __call__(self, **_options: Any) -> _Beats:
        return self

    def run(self) -> None:
        self.begun += 1
        if self.errors:
            raise self.errors.pop(0)


def test_beat_begins_again_after_each_error_of_redis_and_ends_when_it_is_told_to(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = _Beats(redis.ConnectionError("refused"), redis.TimeoutError("late"), OperationalError("no broker"))
    app = celery_app(settings)
    pauses: list[float] = []
    monkeypatch.setattr(app, "Beat", beats)
    monkeypatch.setattr(worker, "celery_app", lambda _settings: app)
    monkeypatch.setattr("tasks.worker.time.sleep", pauses.append)
    worker.beat(settings, Pulse(None, "beat"))
    assert beats.begun == 4
    assert pauses == sorted(pauses)
    assert 0 < max(pauses) <= 5


def test_an_error_that_is_not_of_redis_ends_beat(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = celery_app(settings)
    monkeypatch.setattr(app, "Beat", _Beats(ValueError("a bug")))
    monkeypatch.setattr(worker, "celery_app", lambda _settings: app)
    with pytest.raises(ValueError, match="a bug"):
        worker.beat(settings, Pulse(None, "beat"))
