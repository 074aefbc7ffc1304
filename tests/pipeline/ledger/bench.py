"""A batch in the ledger, and jobs put into it and taken on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.ledger import Ledger
from pipeline.ledger.jobs import QueuePlace
from pipeline.ledger.leases import Lease
from pipeline.records.batch import JobRecord, advance
from pipeline.states import JobState
from tests.factories import at, attempt_spec, batch_record, job_record


class Bench:
    """Short ways to the records of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def job(self, batch_id: str = "b", index: int = 0, **changes: Any) -> JobRecord:
        """A job that is put into the backlog, and its batch if that is not there yet."""
        job = job_record(batch_id, index, **changes)
        self.ledger.batches.create(batch_record(batch_id, images=40))
        assert self.ledger.jobs.create(job)
        return job

    def claimed(self, worker: str = "w1", lease_s: float = 60) -> Lease:
        lease = self.ledger.leases.claim(worker, lease_s)
        assert lease is not None
        return lease

    def launched(self, lease: Lease, number: int = 1) -> JobRecord:
        """The claimed job with an attempt on record."""
        job = self.ledger.jobs.get(lease.job.ref)
        assert job is not None
        spec = attempt_spec(job, number)
        job = advance(job, JobState.LAUNCHING, at=at(1), attempt=spec)
        self.ledger.jobs.write(job, QueuePlace.HELD, fence=lease.fence)
        return job

    def soon(self, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """Return when the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come true in {timeout_s} s")
            time.sleep(0.02)
