"""A render worker whose pods sleep: `python -m benchmarks.bulk.sleeping_worker SECONDS`.

Everything else is the product's own: Celery, leases, records. A pod commits nothing, so its job is tried again.
"""

import sys
import threading
import time
from collections.abc import Mapping

from pipeline.deployment.settings import Settings
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code, LaunchResult, Observation
from tasks import worker


class SleepingLauncher:
    """A `pipeline.records.attempt.Launcher` in memory, whose attempts run for so long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._specs: dict[str, tuple[AttemptSpec, float]] = {}
        self._lock = threading.Lock()

    def launch(self, spec: AttemptSpec) -> LaunchResult:
        """Remember it, and when it began."""
        with self._lock:
            known = spec.name in self._specs
            self._specs.setdefault(spec.name, (spec, time.monotonic()))
        return LaunchResult.ADOPTED if known else LaunchResult.CREATED

    def observe(self) -> Mapping[str, Observation]:
        """All of them, over or not."""
        with self._lock:
            specs = list(self._specs.items())
        return {name: self._seen(name, spec, began) for name, (spec, began) in specs}

    def _seen(self, name: str, spec: AttemptSpec, began: float) -> Observation:
        if time.monotonic() - began < self._seconds:
            return Observation(name, AttemptPhase.RUNNING, "", None, spec.batch_id, spec.job_index, spec)
        well = AttemptOutcome(Code.SUCCEEDED, "", exit_code=0)
        return Observation(name, AttemptPhase.ENDED, "", well, spec.batch_id, spec.job_index, spec)

    def quiet_since(self, moment: float) -> bool:
        """Never for certain, whatever the moment."""
        return False

    def delete(self, name: str) -> None:
        """Forget it."""
        with self._lock:
            self._specs.pop(name, None)


def _launcher_for(_: Settings) -> SleepingLauncher:
    return SleepingLauncher(float(sys.argv[1]))


if __name__ == "__main__":
    worker.launcher_for = _launcher_for  # type: ignore[assignment]  # another function of the same shape
    raise SystemExit(worker.main(["render"]))
