"""See one job through under a lease: record an attempt, launch or adopt it, observe it, settle it.

Each step reads the job's state, does one thing and writes; whoever holds the lease next goes on from what is written.
"""

from __future__ import annotations

import secrets
import time

import structlog

from pipeline.attempt import AttemptSpec, Code, NameTaken, Outcome, Phase, attempt_name
from pipeline.errors import LeaseLost, ServiceError, StaleWrite
from pipeline.layouts import planned_layout
from pipeline.ledger.jobs import Place
from pipeline.ledger.leases import Lease
from pipeline.objects import BatchObjects
from pipeline.records import JobRecord, advance, changed
from pipeline.states import BatchState, JobState, is_final
from tasks.context import Context
from tasks.settle import settle_cancelled, settle_ended

log = structlog.get_logger(__name__)

OUTAGE_PAUSE_S, LONGEST_OUTAGE_PAUSE_S = 0.5, 10.0

_STATE_OF = {
    Phase.WAITING_QUOTA: JobState.WAITING_QUOTA,
    Phase.PENDING: JobState.PENDING,
    Phase.RUNNING: JobState.RUNNING,
}


def drive(context: Context, lease: Lease) -> None:
    """See the job through until it is over, waits for its next attempt, or is no longer ours.

    When the worker stops, the job is handed over at once and its pod left alone. Outages of Redis, S3 or the cluster
    are waited out: they are no failure of the job.
    """
    ref, fence = lease.job.ref, lease.fence
    with structlog.contextvars.bound_contextvars(batch=lease.job.batch_id, job=lease.job.index):
        log.info("job claimed", state=lease.job.state.value)
        pause_s = OUTAGE_PAUSE_S
        while True:
            try:
                if context.stopping.is_set():
                    context.ledger.leases.release(ref, fence)
                    log.info("job handed over")
                    return
                context.ledger.leases.renew(ref, fence, context.settings.lease_s)
                job = context.ledger.jobs.get(ref)
                if job is None or is_final(job.state) or not step(context, job, fence):
                    return
            except LeaseLost as error:
                log.warning("job is no longer ours", reason=str(error))
                return
            except StaleWrite:
                continue  # an answer was lost and our own write stands, or somebody moved it: look again
            except ServiceError as error:
                log.warning("waiting for an outage to end", reason=str(error), pause_s=pause_s)
                if context.stopping.wait(pause_s):
                    return  # it may not be reachable to hand over; the lease ends by itself
                pause_s = min(LONGEST_OUTAGE_PAUSE_S, pause_s * 2)
                continue
            pause_s = OUTAGE_PAUSE_S
            context.stopping.wait(context.settings.observe_s)


def step(context: Context, job: JobRecord, fence: str) -> bool:
    """One step of one job; False when there is nothing more to do under this lease."""
    cancelling = context.ledger.batches.state(job.batch_id) is BatchState.CANCELLING
    if job.state in (JobState.QUEUED, JobState.RETRYING):
        if cancelling:
            settle_cancelled(context, job, fence)
            return False
        job = _recorded(context, job, fence)
    if job.attempt is None:
        raise ValueError(f"job {job.ref} is {job.state.value} without an attempt")
    with structlog.contextvars.bound_contextvars(attempt=job.attempt.number):
        if not job.confirmed and not cancelling:
            return _launched(context, job, job.attempt, fence)
        return _observed(context, job, job.attempt, fence, cancelling=cancelling)


def _recorded(context: Context, job: JobRecord, fence: str) -> JobRecord:
    settings = context.settings
    number = job.attempt.number + 1 if job.attempt else 1
    spec = AttemptSpec(
        name=attempt_name(job.incarnation, job.index, number),
        batch_id=job.batch_id,
        incarnation=job.incarnation,
        job_index=job.index,
        number=number,
        token=secrets.token_hex(16),
        image=settings.image,
        gpus=settings.gpus,
        layout=planned_layout(settings.gpus, settings.layout),
        exact=settings.exact,
        warmup_steps=settings.warmup_steps,
        device=settings.device,
        dtype=settings.dtype,
        shard_key=BatchObjects(job.batch_id).shard(job.index),
        deadline_s=settings.deadline_s,
        avoid_nodes=tuple(sorted({e.node for e in job.ended if e.node and e.code is Code.GPU_UNHEALTHY})),
    )
    launching = advance(job, JobState.LAUNCHING, at=context.ledger.now(), attempt=spec, confirmed=False)
    context.ledger.jobs.write(launching, Place.HELD, fence=fence)
    return launching


def _launched(context: Context, job: JobRecord, spec: AttemptSpec, fence: str) -> bool:
    try:
        result = context.launcher.launch(spec)
    except NameTaken as error:
        # Created before and gone since, or not ours: never create it again, count it as an attempt that ended.
        settle_ended(context, job, fence, Outcome(Code.UNKNOWN, str(error)))
        return False
    log.info("attempt launched", name=spec.name, how=result.value)
    context.ledger.jobs.write(changed(job, at=context.ledger.now(), confirmed=True), Place.HELD, fence=fence)
    return True


def _observed(context: Context, job: JobRecord, spec: AttemptSpec, fence: str, *, cancelling: bool) -> bool:
    seen = context.observer.look().get(spec.name)
    if seen is None:  # the shared look may be older than the launch
        seen = context.observer.look(after=time.monotonic()).get(spec.name)
    if cancelling:
        if seen is None or seen.phase is Phase.ENDED:
            settle_cancelled(context, job, fence)
            context.launcher.delete(spec.name)
            return False
        context.launcher.delete(spec.name)
        return True
    if seen is None:
        seen_outcome: Outcome | None = Outcome(Code.DELETED, "the attempt is gone, and nobody here deleted it")
    else:
        seen_outcome = seen.outcome
    if seen_outcome is not None:
        settle_ended(context, job, fence, seen_outcome)
        context.launcher.delete(spec.name)
        return False
    if seen is not None and (state := _STATE_OF[seen.phase]) is not job.state:
        log.info("attempt moved", state=state.value, detail=seen.detail)
        context.ledger.jobs.write(advance(job, state, at=context.ledger.now()), Place.HELD, fence=fence)
    return True
