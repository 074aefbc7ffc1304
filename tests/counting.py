"""How often a store is asked, and for how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.bucket.artifacts import Artifacts


@dataclass
class Asked:
    """Requests to S3 by their operation, and how many keys the lists among them named."""

    calls: Counter[str] = field(default_factory=Counter)
    listed: int = 0


@contextmanager
def counted(artifacts: Artifacts) -> Iterator[Asked]:
    """What these artifacts ask for inside."""
    asked = Asked()

    def before(model: Any, **_: Any) -> None:
        asked.calls[model.name] += 1

    def after(parsed: dict[str, Any], **_: Any) -> None:
        asked.listed += len(parsed.get("Contents", ()))

    clients = [client.meta.events for client in (artifacts._client, artifacts._impatient)]
    for events in clients:
        events.register("before-call.s3", before)
        events.register("after-call.s3", after)
    try:
        yield asked
    finally:
        for events in clients:
            events.unregister("before-call.s3", before)
            events.unregister("after-call.s3", after)
