"""What a batch waits for of which no pod runs, in words for its owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.deployment.tenants import limits_of
from pipeline.ledger import Ledger
from pipeline.ledger.workers import Worker
from pipeline.records.batch import BatchRecord
from pipeline.states import BatchState, JobState

_WITH_A_POD = (JobState.LAUNCHING, JobState.PENDING, JobState.WAITING_QUOTA, JobState.RUNNING)
_UNDER_WAY = (*_WITH_A_POD, JobState.RETRYING)


def queued_for(ledger: Ledger, record: BatchRecord, jobs: Mapping[JobState, int]) -> str | None:
    """Why none of a batch's jobs has a pod; None if one has, or none is there to begin.

    Args:
        ledger: asked for the workers, if need be.
        record: of the batch.
        jobs: how many jobs of it are in each state.
    """
    if record.state is BatchState.VALIDATING:
        return "waits for the controller, which cuts it into jobs"
    if record.state is not BatchState.IN_PROGRESS or not (jobs[JobState.QUEUED] or jobs[JobState.RETRYING]):
        return None
    if any(jobs[state] for state in _UNDER_WAY):
        return _what_all_wait_for(ledger, record, jobs)
    return _for_a_worker(ledger, record.manifest.tenant, ledger.workers.listing())


def _what_all_wait_for(ledger: Ledger, record: BatchRecord, jobs: Mapping[JobState, int]) -> str | None:
    """What the first job waits for, if none has a pod: an outage, or weights that are not there yet."""
    if any(jobs[state] for state in _WITH_A_POD):
        return None
    first = ledger.jobs.begun(record.manifest.id, 1)
    return first[0].wait.reason if first and first[0].wait is not None else None


def _for_a_worker(ledger: Ledger, tenant: str, workers: Sequence[Worker]) -> str:
    if not workers:
        return "waits for a render worker: none is alive (`tessera doctor` says more)"
    if all(worker.drain for worker in workers):
        return f"waits for a render worker: all {len(workers)} are drained (`tessera undrain --all`)"
    if not any(worker.free for worker in workers):
        held = sum(worker.jobs for worker in workers)
        return f"waits for a free slot: the render workers hold as many jobs as they take ({held})"
    most = limits_of(ledger.deployment().tenants, tenant).running_jobs
    if most is not None:
        return f"waits for its turn: tenant {tenant!r} may have {most} jobs at a time"
    return "waits for a render worker to take its first job"
