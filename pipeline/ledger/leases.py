"""A worker's right to launch, observe and delete for a job, fenced by a number."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import LeaseLost
from pipeline.ledger.store import Store
from pipeline.records import JobRecord


@dataclass(frozen=True)
class Lease:
    """What a worker holds: the job as it was when claimed, and the fence that its writes must show."""

    job: JobRecord
    fence: str


class Leases:
    """Claim, renew, hand over. A lease that is not renewed ends by Redis' clock, and the next claim adopts the job."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, worker: str, lease_s: float) -> Lease | None:
        """The best job that may be claimed: priority, then fair share between tenants, then age."""
        answer = self._store.run("claim", worker, int(lease_s * 1000))
        if not answer:
            return None
        _ref, fence, record = answer
        return Lease(JobRecord.model_validate_json(record), fence)

    def renew(self, ref: str, fence: str, lease_s: float) -> None:
        """Keep the job for another `lease_s`. Raises LeaseLost."""
        if not self._store.run("renew", ref, fence, int(lease_s * 1000)):
            raise LeaseLost(f"job {ref} is held by another worker, or by nobody")

    def release(self, ref: str, fence: str) -> bool:
        """Hand the job over to whoever claims next, now; what runs for it goes on. False if it was not ours."""
        return bool(self._store.run("release", ref, fence))

    def promote(self, limit: int = 1000) -> tuple[int, int]:
        """Put jobs whose lease ran out, and jobs whose delay is over, into the backlog; returns how many of each."""
        expired, due = self._store.run("promote", limit)
        return int(expired), int(due)

    def backlog(self) -> int:
        """How many jobs could be claimed now."""
        with self._store.errors():
            tenants = self._store.redis.hkeys(self._store.keys.tenants)
            pipe = self._store.redis.pipeline(transaction=False)
            for tenant in tenants:
                pipe.zcard(self._store.keys.backlog(tenant))
            return sum(pipe.execute())
