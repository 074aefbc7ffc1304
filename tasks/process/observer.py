"""One shared look at everything that runs, for all of a worker's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from pipeline.errors import RecordUnreadable, ServiceError, TesseraError
from pipeline.records.attempt import Launcher, Observation

# How old a look may get while nothing is heard to move: what a watch that went silent costs at most.
QUIET_LOOK_S = 15.0

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
        """What there is, begun after the monotonic time `after`.

        It is no older than the interval; or, while the launcher's watch hears nothing, than QUIET_LOOK_S.
        Raises ServiceError if the launcher cannot be asked.
        """
        with self._lock:
            now = time.monotonic()
            age_s = now - self._taken_at
            old = age_s > self._max_age_s and (age_s > QUIET_LOOK_S or not self._launcher.quiet_since(self._taken_at))
            if self._taken_at <= after or old:
                self._seen = self._observe()
                self._taken_at = now
            return self._seen

    def _observe(self) -> Mapping[str, Observation]:
        try:
            return self._launcher.observe()
        except RecordUnreadable as error:
            raise ServiceError(f"what runs cannot be made out: {error}") from error
        except TesseraError:
            raise
        except Exception as error:  # one look is shared: what breaks it is no job's fault, and is waited for
            log.exception("what runs cannot be made out")
            raise ServiceError(f"what runs cannot be made out: {type(error).__name__}: {error}") from error
