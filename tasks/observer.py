"""One shared look at everything that runs, for all of a worker's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from pipeline.attempt import Launcher, Observation


class Observer:
    """Caches the launcher's LIST, so that a worker asks once per interval however many pods it looks after."""

    def __init__(self, launcher: Launcher, max_age_s: float) -> None:
        self._launcher = launcher
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._taken_at = float("-inf")
        self._seen: Mapping[str, Observation] = {}

    def look(self, *, after: float = float("-inf")) -> Mapping[str, Observation]:
        """What there is, no older than the interval, and begun after the monotonic time `after`.

        Raises ServiceError if the launcher cannot be asked.
        """
        with self._lock:
            now = time.monotonic()
            if self._taken_at <= after or now - self._taken_at > self._max_age_s:
                self._seen = self._launcher.observe()
                self._taken_at = now
            return self._seen
