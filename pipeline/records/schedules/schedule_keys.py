"""Where schedules lie in S3: keys relative to the deployment's prefix.

schedules/<name>/schedule.json      the schedule as a user last changed it; it exists if this object does
                 firings/<id>.json  what became of one firing
                 rows/<id>-*.bin    digests of the rows of the last firing, for --only-new; * is the object's SHA-256
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = "schedules/"


@dataclass(frozen=True)
class ScheduleObjects:
    """The keys of one schedule."""

    name: str

    @property
    def root(self) -> str:
        return f"{SCHEDULES}{self.name}/"

    @property
    def record(self) -> str:
        return self.root + "schedule.json"

    @property
    def firings(self) -> str:
        return self.root + "firings/"

    def firing(self, firing_id: str) -> str:
        return f"{self.firings}{firing_id}.json"

    def firing_of(self, key: str) -> str:
        """The id of the firing that lies under a key of `firings`."""
        return key.removeprefix(self.firings).removesuffix(".json")

    def rows(self, firing_id: str, sha256: str) -> str:
        """Where such digests lie; the schedule's record names the key, and so says what is to be there."""
        return f"{self.root}rows/{firing_id}-{sha256}.bin"
