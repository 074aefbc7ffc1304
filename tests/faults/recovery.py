"""How long it took from a fault until work went on: measured by the tests, kept for docs/reliability.md."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.process import flock
from tests.faults.deployment import until

_LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class Recovery:
    """One fault of one test: what was done, what was waited for, and how long that took."""

    fault: str
    again: str
    seconds: float


class Recoveries:
    """What one test measured."""

    def __init__(self) -> None:
        self.found: list[Recovery] = []

    def after(self, fault: str, again: str, true: Callable[[], Any], since: float) -> float:
        """Wait until work goes on again, and note how long after the monotonic time `since` that was."""
        until(again, true)
        seconds = time.monotonic() - since
        self.found.append(Recovery(fault, again, round(seconds, 1)))
        return seconds

    def write(self, path: Path) -> None:
        """Add them to those of a file, in the place of what was measured of the same faults before.

        Tests of several processes may do so at once.
        """
        lock = flock.acquire(path, _LOCK_WAIT_S)
        assert lock is not None, f"{path} stays locked"
        try:
            self._write(path)
        finally:
            os.close(lock)

    def _write(self, path: Path) -> None:
        text = path.read_text()
        before = json.loads(text)["faults"] if text else []
        own = {one.fault: asdict(one) for one in self.found}
        results = {
            "measured": f"{datetime.now(UTC):%Y-%m-%d}",
            "command": "make test-faults",
            "cores": os.cpu_count(),
            "faults": sorted(
                [one for one in before if one["fault"] not in own] + list(own.values()),
                key=lambda one: one["fault"].lower(),
            ),
        }
        path.write_text(json.dumps(results, indent=2) + "\n")
