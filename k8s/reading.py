"""What one look at an attempt shows, before limits on waiting apply; and access to fields of the API's objects."""

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

# An object in the API's JSON. There, a field that is absent, null or empty means the same.
Object = Mapping[str, Any]

REASON_LIMIT = 2000

# From messages of NVIDIA's container toolkit, through the runtime, when it cannot give a container its GPUs.
NO_DEVICE = re.compile(r"nvidia-container|nvml|CDI device", re.IGNORECASE)


class Clock(StrEnum):
    """What an attempt may wait for; each has a limit of its own. The values are names of fields of `Clocks`."""

    QUOTA = "quota_s"
    NODE = "node_s"
    START = "start_s"
    ADMISSION = "admission_s"
    NODE_LOST = "node_lost_s"


@dataclass(frozen=True)
class Reading:
    """One look at one attempt. If it waits for something, `code` is how it ends when it waits too long."""

    phase: AttemptPhase
    reason: str
    code: Code | None = None
    clock: Clock | None = None
    since: datetime | None = None
    exit_code: int | None = None
    report: PodReport | None = None
    node: str | None = None

    def at(self, now: datetime, clocks: Clocks) -> Reading:
        """This reading at the time `now`: ended, if the attempt has waited too long."""
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
    """Whether nothing of the pod runs or will run."""
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
    """Names of the containers that failed."""
    return [name for name, end in ends(pod) if end.get("exitCode") != 0]


def deleted_at(of: Object) -> datetime | None:
    """When the object's grace period is over, if it is being deleted."""
    return time_of(metadata(of).get("deletionTimestamp"))


def time_of(text: str | None) -> datetime | None:
    """A time in the API's format, or None."""
    return datetime.fromisoformat(text) if text else None


def event(events: Iterable[Object], kind: str, reasons: Sequence[str]) -> Object | None:
    """The latest event about an object of this kind with one of these reasons."""
    found = [one for one in events if one and about(one).get("kind") == kind and one.get("reason") in reasons]
    return max(found, key=_written_at, default=None)


def _written_at(one: Object) -> str:
    # Events of the scheduler have eventTime, others have lastTimestamp.
    return one.get("lastTimestamp") or one.get("eventTime") or metadata(one).get("creationTimestamp") or ""
