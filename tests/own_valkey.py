"""A Redis of a test's own, which nobody else asks for anything: for tests that read the counters of the server."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded.processes.child import Child
from embedded.services.endpoints import load_endpoints
from embedded.services.readiness import wait_until_ready
from embedded.services.valkey import check_valkey, valkey
from pipeline.deployment.settings import Settings


@contextmanager
def with_own_valkey(settings: Settings, folder: Path) -> Iterator[Settings]:
    """The same deployment on a Redis of its own."""
    (folder / "logs").mkdir(parents=True)
    endpoints = load_endpoints(folder)
    server = Child(valkey(endpoints, folder, {}))
    server.start()
    try:
        wait_until_ready(server, lambda: check_valkey(endpoints), time.monotonic() + 60)
        yield Settings.model_validate(settings.model_dump() | {"redis_url": endpoints.redis_url})
    finally:
        server.send(signal.SIGKILL)
