"""What one look at an attempt says, before any clock: a phase, and its name if it has ended or waits too long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from k8s.pod import Clocks
from pipeline.process.redact import redacted
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, Code, PodReport

# An object as the API's JSON has it. Absent, null and empty mean the same there.
Object = Mapping[str, Any]

REASON_LIMIT = 2000

# What NVIDIA's container toolkit says, through the runtime, when it cannot give a container its GPUs.
NO_DEVICE = re.compile(r"nvidia-container|nvml|CDI device", re.IGNORECASE)


class Clock(StrEnum):
    """What an attempt may be waiting for; each is counted by itself. The names are those of `Clocks`."""

    QUOTA = "quota_s"
    NODE = "node_s"
    START = "start_s"
    ADMISSION = "admission_s"
    NODE_LOST = "node_lost_s"


@dataclass(frozen=True)
class Reading:
    """One look at one attempt. A live one has a code if there is a limit to its wait: what it would have died of."""

    phase: AttemptPhase
    reason: str
    code: Code | None = None
    clock: Clock | None = None
    since: datetime | None = None
    exit_code: int | None = None
    report: PodReport | None = None
    node: str | None = None

    def by(self, now: datetime, clocks: Clocks) -> Reading:
        """The same, ended if its wait has lasted too long by `now`."""
        if self.phase is AttemptPhase.ENDED or self.clock is None or self.since is None:
            return self
        limit_s: float | None = getattr(clocks, self.clock.value)
        if limit_s is None or now - self.since <= timedelta(seconds=limit_s):
            return self
        reason = f"{self.reason} (for longer than {limit_s:g} s)"
        return Reading(AttemptPhase.ENDED, reason, self.code or Code.UNKNOWN, node=self.node)

    @property
    def outcome(self) -> AttemptOutcome | None:
        """How it ended, if it has."""
        if self.phase is not AttemptPhase.ENDED:
            return None
        reason = redacted(self.reason.strip())[:REASON_LIMIT]
        return AttemptOutcome(self.code or Code.UNKNOWN, reason, self.exit_code, self.report, self.node)


def condition(of: Object, *kinds: str) -> Object | None:
    """The first of these conditions that is true."""
    for kind in kinds:
        for one in conditions(of):
            if one.get("type") == kind and one.get("status") == "True":
                return one
    return None


def conditions(of: Object) -> list[Object]:
    """All conditions, true or not."""
    return [one for one in status(of).get("conditions") or () if one]


def metadata(of: Object) -> Object:
    """The metadata."""
    found: Object = of.get("metadata") or {}
    return found


def spec(of: Object) -> Object:
    """The spec."""
    found: Object = of.get("spec") or {}
    return found


def status(of: Object) -> Object:
    """The status; empty right after creation."""
    found: Object = of.get("status") or {}
    return found


def about(event: Object) -> Object:
    """What an event is about: kind and name."""
    found: Object = event.get("involvedObject") or {}
    return found


def is_over(pod: Object) -> bool:
    """Whether nothing of the pod runs, or ever will."""
    return status(pod).get("phase") in ("Succeeded", "Failed")


def containers(pod: Object) -> list[Object]:
    """The status of each container that has one, init containers first."""
    found = [*(status(pod).get("initContainerStatuses") or ()), *(status(pod).get("containerStatuses") or ())]
    return [one for one in found if one]


def ends(pod: Object) -> list[tuple[str, Object]]:
    """Name and end of each container that has ended, init containers first."""
    return [
        (str(one.get("name")), end) for one in containers(pod) if (end := (one.get("state") or {}).get("terminated"))
    ]


def failed_containers(pod: Object) -> list[str]:
    """Names of those that ended badly."""
    return [name for name, end in ends(pod) if end.get("exitCode") != 0]


def deleted_at(of: Object) -> datetime | None:
    """When the object's grace period is over, if it is being deleted."""
    return time_of(metadata(of).get("deletionTimestamp"))


def time_of(text: str | None) -> datetime | None:
    """A time of the API's, or None."""
    return datetime.fromisoformat(text) if text else None


def event(events: Iterable[Object], kind: str, reasons: Sequence[str]) -> Object | None:
    """The latest event about an object of this kind with one of these reasons."""
    found = [one for one in events if one and about(one).get("kind") == kind and one.get("reason") in reasons]
    return max(found, key=_written_at, default=None)


def _written_at(one: Object) -> str:
    # The scheduler's events have the one, the others the other.
    return one.get("lastTimestamp") or one.get("eventTime") or metadata(one).get("creationTimestamp") or ""
