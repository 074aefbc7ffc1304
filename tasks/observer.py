"""One shared look at everything that runs, for all of a worker's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from pipeline.attempt import Launcher, Observation
from pipeline.errors import ServiceError, TesseraError

log = structlog.get_logger(__name__)


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
                self._seen = self._observed()
                self._taken_at = now
            return self._seen

    def _observed(self) -> Mapping[str, Observation]:
        try:
            return self._launcher.observe()
        except TesseraError:
            raise
        except Exception as error:  # one look is shared: what breaks it is no job's fault, and is waited for
            log.exception("what runs cannot be made out")
            raise ServiceError(f"what runs cannot be made out: {type(error).__name__}: {error}") from error
