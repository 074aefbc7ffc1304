"""A worker's right to launch, observe and delete for a job, fenced by a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from pipeline.deployment.tenants import TenantLimits, limits_of
from pipeline.errors import LeaseLost, LedgerInDoubt, RecordTooNew, RecordUnreadable, UnknownBatch
from pipeline.ledger.generations import Generations
from pipeline.ledger.scripts import Argument
from pipeline.ledger.store import Store
from pipeline.names import batch_of
from pipeline.records.batch import JobRecord
from pipeline.schema import read_record
from pipeline.states import BatchState

log = structlog.get_logger(__name__)

# Time for a worker of another version to claim it, or for a person to repair the record.
UNREADABLE_DELAY_S = 15.0
UNREADABLE_TIMES = 4

_UNLIMITED = 2**31

# Replaces the record of a job: its ref, the fence of the lease on it, and what is wrong with the record that is there.
Mend = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Lease:
    """What a worker holds: the job as it was when claimed, and the fence that its writes must show."""

    job: JobRecord
    fence: str


@dataclass(frozen=True)
class Held:
    """A leased job as it is now.

    Attributes:
        job: its record.
        batch: the state of its batch.
        registered: number of the attempt that a pod has registered for, whose pod therefore exists or existed; or 0.
        at: the ledger's clock.
    """

    job: JobRecord
    batch: BatchState
    registered: int
    at: datetime


class Leases:
    """Claim, renew, release. A lease that is not renewed expires by Redis' clock; then the next claim gets the job."""

    def __init__(self, store: Store, tenants: Mapping[str, TenantLimits], generations: Generations) -> None:
        self._store, self._tenants, self._generations = store, tenants, generations

    def claim(self, worker: str, lease_s: float, mend: Mend | None = None, *, sure: bool = False) -> Lease | None:
        """The best job that may be claimed: priority, then fair share between tenants, then age.

        With `sure`, raises LedgerInDoubt instead while the ledger is to be compared with the bucket.

        No job of a tenant that is at its limit of running jobs. A job whose record cannot be read is put back for a
        while, and the next one is claimed; one that is gone, or was found damaged UNREADABLE_TIMES, is given to `mend`.
        """
        limits: list[Argument] = []
        for name in self._tenants:
            limits += [name, self._most_jobs(name)]
        while answer := self._claim(worker, lease_s, limits, sure=sure):
            ref, fence, *found = answer
            record, times = found[0] if found else None, 1
            try:
                if record is not None:
                    return Lease(read_record(JobRecord, record, what=f"job {ref}"), fence)
                reason, times = f"job {ref} has no record", UNREADABLE_TIMES
            except RecordUnreadable as error:
                reason = str(error)
                if not isinstance(error, RecordTooNew):
                    times = self.count_internal_error(ref, fence)
            if mend is not None and times >= UNREADABLE_TIMES:
                mend(ref, fence, reason)
            else:
                log.error("a job with an unreadable record is put back", job=ref, reason=reason)
            self.release(ref, fence, delay_s=UNREADABLE_DELAY_S)  # nothing happens if it was mended
        return None

    def _claim(self, worker: str, lease_s: float, limits: list[Argument], *, sure: bool) -> list[str] | None:
        server, connected = self._generations.known_server() if sure else "", self._store.connected
        answer = self._store.run("claim", *limits, worker=worker, lease_ms=int(lease_s * 1000), server=server)
        if answer == "in doubt":
            raise LedgerInDoubt
        if answer and sure and self._store.connected != connected and self._generations.is_in_doubt(new=False):
            self.release(*answer[:2])  # another server has answered than was asked for
            raise LedgerInDoubt
        return list(answer) if answer else None

    def renew(self, ref: str, fence: str, lease_s: float) -> Held:
        """Keep the job for another `lease_s`. Raises LeaseLost, UnknownBatch, RecordUnreadable."""
        batch_id = batch_of(ref)
        answer = self._store.run("renew", ref=ref, batch=batch_id, fence=fence, lease_ms=int(lease_s * 1000))
        if not answer:
            raise LeaseLost(f"job {ref} is held by another worker, or by nobody")
        record, batch, registered, seconds, microseconds = answer
        if not record or not batch:
            raise UnknownBatch(batch_id)
        at = datetime.fromtimestamp(int(seconds) + int(microseconds) / 1e6, UTC)
        return Held(read_record(JobRecord, record, what=f"job {ref}"), BatchState(batch), int(registered), at)

    def release(self, ref: str, fence: str, delay_s: float = 0) -> bool:
        """Give the job up to the next claim; its pod keeps running. False if we did not hold it."""
        return bool(self._store.run("release", ref=ref, fence=fence, delay_ms=int(delay_s * 1000)))

    def count_internal_error(self, ref: str, fence: str) -> int:
        """Count an internal error while working on this job; returns how many there were. Raises LeaseLost."""
        times = int(self._store.run("count_internal_error", ref=ref, fence=fence))
        if not times:
            raise LeaseLost(f"job {ref} is held by another worker, or by nobody")
        return times

    def promote(self, limit: int = 1000) -> tuple[int, int]:
        """Put jobs whose lease expired, and jobs whose delay is over, into the backlog; returns how many of each."""
        expired, due = self._store.run("promote", limit=limit)
        return int(expired), int(due)

    def delayed(self) -> int:
        """How many jobs wait for the end of a delay."""
        with self._store.errors():
            return int(self._store.redis.zcard(self._store.keys.delayed))

    def unpark(self, batch_id: str) -> int:
        """Put the jobs that were set aside while the batch was paused back into the backlog; returns how many."""
        return int(self._store.run("unpark", batch=batch_id))

    def backlog(self) -> int:
        """How many waiting jobs could be claimed if there were enough workers, within the limits of tenants."""
        with self._store.errors():
            held = self._store.redis.hgetall(self._store.keys.tenants)
            pipe = self._store.redis.pipeline(transaction=False)
            for tenant in held:
                pipe.zcard(self._store.keys.backlog(tenant))
            waiting = pipe.execute()
        return sum(
            min(jobs, max(0, self._most_jobs(tenant) - _held(leases)))
            for (tenant, leases), jobs in zip(held.items(), waiting, strict=True)
        )

    def _most_jobs(self, tenant: str) -> int:
        return limits_of(self._tenants, tenant).running_jobs or _UNLIMITED


def _held(text: str) -> int:
    """How many leases a tenant has; where something else stands there, claims count them anew."""
    return int(text) if text.lstrip("-").isdecimal() else 0
