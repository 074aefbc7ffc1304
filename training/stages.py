"""What each stage of a training took."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class Stages:
    """Wall and CPU seconds, children's included, of each stage of this run."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, self._now()

    def end(self, stage: str) -> None:
        now = self._now()
        wall_s, cpu_s = (after - before for before, after in zip(self._last, now, strict=True))
        with self._path.open("a") as file:
            file.write(json.dumps({"stage": stage, "wall_s": round(wall_s, 1), "cpu_s": round(cpu_s, 1)}) + "\n")
        self._last = now

    @staticmethod
    def _now() -> tuple[float, float]:
        times = os.times()
        return time.monotonic(), times.user + times.system + times.children_user + times.children_system
