"""The Job that fills the claim with weights: an attempt that needs them is not created before it has ended.

`helm install` returns before that Job has. Whether the weights are there is found by the attempt itself; here is only
asked whether somebody is still putting them there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

from k8s.cluster import Cluster
from k8s.events import Events
from k8s.outcome import read
from k8s.pod import MODELS_PATH
from k8s.reading import Object, condition, ends, metadata, status
from pipeline.deployment.settings import ModelSource
from pipeline.process.redact import redacted
from pipeline.records.attempt import AttemptPhase, Code

LOOK_EVERY_S, EVENTS_EVERY_S = 5.0, 10.0
_REASON_LIMIT = 600  # characters of what its pod says


class WarmUp:
    """Looks at that Job, at most every few seconds. Safe to share between threads."""

    def __init__(self, cluster: Cluster, events: Events, job: str | None, models: Mapping[str, ModelSource]) -> None:
        """
        Args:
            cluster: asked for the Job and its pods.
            events: of the namespace; they say why a Job has no pod.
            job: its name; None if nothing fills the claim.
            models: the allow-list; those that do not lie in the claim wait for nothing.
        """
        self._cluster, self._events, self._job = cluster, events, job
        self._in_claim = {
            name for name, source in models.items() if PurePosixPath(source.path).is_relative_to(MODELS_PATH)
        }
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._under_way: str | None = None
        self._failure: str | None = None

    def awaits(self, models: Collection[str]) -> str | None:
        """Why attempts with these models have to wait, or None. Raises ServiceError."""
        mine = sorted(self._in_claim.intersection(models))
        if self._job is None or not mine:
            return None
        with self._lock:
            self._look()
            if self._under_way is None:
                return None
            return f"the weights of {', '.join(mine)} are not there yet: {self._under_way}"

    @property
    def failure(self) -> str | None:
        """How the Job failed, if it had when last looked at: a reason for weights that are absent or wrong."""
        return self._failure

    def _look(self) -> None:
        if self._job is None or time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        job = self._cluster.job(self._job)
        over = job is None or condition(job, "Complete", "Failed") is not None
        failed = condition(job, "Failed") if job is not None else None
        pods = self._cluster.pods(f"job-name={self._job}") if not over or failed else []
        at_last = _at_last(pods)
        if job is None or over:
            self._under_way = None
        else:
            times = status(job).get("failed") or 0
            so_far = f"; it has failed {times} times so far, at last: {at_last}" if times else ""
            self._under_way = f"Job {self._job} {self._doing(job, pods)}{so_far}"
        self._failure = f"Job {self._job} failed: {at_last or failed.get('message')}" if failed else None
        self._looked_at = time.monotonic()

    def _doing(self, job: Object, pods: Sequence[Object]) -> str:
        if any(status(pod).get("phase") == "Running" for pod in pods):
            return "copies and checks them"
        # Nothing limits this wait, for a Job has no clock and counts no pull that fails: say what it is for.
        self._events.refresh(EVENTS_EVERY_S)
        found = read(job, pods, self._events.about(str(self._job)))
        if found is None or found.phase is AttemptPhase.ENDED:  # of a pod that failed, before the next
            return "is about to copy them"
        what = "waits for a node" if found.code is Code.UNSCHEDULABLE else "is about to copy them"
        return f"{what}: {redacted(found.reason)[:_REASON_LIMIT]}"


def _at_last(pods: Sequence[Object]) -> str:
    """What the latest container that failed left."""
    newest = sorted(pods, key=lambda pod: str(metadata(pod).get("creationTimestamp")), reverse=True)
    for end in (end for pod in newest for _, end in ends(pod) if end.get("exitCode") != 0):
        said = str(end.get("message") or end.get("reason") or "").strip()
        return redacted(said)[-_REASON_LIMIT:] or f"exit code {end.get('exitCode')}"
    return ""
