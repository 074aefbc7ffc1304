"""One list of all attempts, shared by the threads of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from pipeline.errors import RecordUnreadable, ServiceError, TesseraError
from pipeline.records.attempt import Launcher, Observation

# How old the list may become while the watch reports no change: the longest delay if a watch silently fails.
QUIET_LOOK_S = 15.0

log = structlog.get_logger(__name__)


class Observer:
    """Caches the launcher's list, so that a worker asks once per interval however many pods it runs."""

    def __init__(self, launcher: Launcher, max_age_s: float) -> None:
        self._launcher = launcher
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._taken_at = float("-inf")
        self._seen: Mapping[str, Observation] = {}

    def look(self, *, after: float = float("-inf")) -> Mapping[str, Observation]:
        """All attempts by name, listed after the monotonic time `after`.

        The list is no older than the interval or, while the launcher's watch reports no change, than QUIET_LOOK_S.
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
            raise ServiceError(f"running attempts could not be listed: {error}") from error
        except TesseraError:
            raise
        except (
            Exception
        ) as error:  # the list is shared: an error is no fault of one job, and is waited out like an outage
            log.exception("running attempts could not be listed")
            raise ServiceError(f"running attempts could not be listed: {type(error).__name__}: {error}") from error
