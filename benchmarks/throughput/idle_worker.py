"""A render worker whose pods do nothing, for the control plane's figures.

Everything else is the product's own: Celery, leases, records, settlement. An attempt is over, and well, as soon as
somebody looks; its images were put into the bucket before.
"""

import threading
from collections.abc import Collection, Mapping

from pipeline.deployment.settings import Settings
from pipeline.records.attempt import (
    AttemptOutcome,
    AttemptPhase,
    AttemptSpec,
    Code,
    Launcher,
    LaunchResult,
    Observation,
)
from tasks import worker


class IdleLauncher:
    """A `pipeline.records.attempt.Launcher` in memory."""

    def __init__(self) -> None:
        self._specs: dict[str, AttemptSpec] = {}
        self._lock = threading.Lock()

    def launch(self, spec: AttemptSpec) -> LaunchResult:
        """Remember it."""
        with self._lock:
            known = spec.name in self._specs
            self._specs[spec.name] = spec
        return LaunchResult.ADOPTED if known else LaunchResult.CREATED

    def observe(self) -> Mapping[str, Observation]:
        """All of them, over."""
        with self._lock:
            specs = list(self._specs.items())
        well = AttemptOutcome(Code.SUCCEEDED, "", exit_code=0)
        return {name: Observation(name, AttemptPhase.ENDED, "", well, s.batch_id, s.job_index) for name, s in specs}

    def awaits(self, models: Collection[str]) -> str | None:
        """Nothing: no weights are on their way here."""
        return None

    def quiet_since(self, moment: float) -> bool:
        """Never for certain, whatever the moment."""
        return False

    def delete(self, name: str) -> None:
        """Forget it."""
        with self._lock:
            self._specs.pop(name, None)


def _idle(settings: Settings) -> Launcher:
    del settings  # whatever they say
    return IdleLauncher()


if __name__ == "__main__":
    worker.launcher_for = _idle
    raise SystemExit(worker.main(["render"]))
