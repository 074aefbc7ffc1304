"""See one job through under a lease: record an attempt, launch or adopt it, observe it, settle it.

Each step reads the job's state, does one thing and writes; whoever holds the lease next goes on from what is written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from pipeline.deployment.cost import tera_operations
from pipeline.deployment.layout_choice import LayoutChoice, Load, fastest_layout
from pipeline.deployment.layouts import planned_layout
from pipeline.errors import (
    LeaseLost,
    LedgerUnavailable,
    RecordUnreadable,
    ServiceError,
    StaleWrite,
    TesseraError,
    UnknownBatch,
)
from pipeline.ledger.jobs import QueuePlace
from pipeline.ledger.leases import UNREADABLE_DELAY_S, Held, Lease
from pipeline.names import attempt_name
from pipeline.process.backoff import backoff_s
from pipeline.process.redact import redacted
from pipeline.records.attempt import AttemptSpec, Code, LaunchResult, NameTaken, Outcome, Phase
from pipeline.records.batch import JobRecord, advance, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, JobState, is_final
from tasks.jobs import retry_policy
from tasks.jobs.finish_attempt import abandon_job, cancel_job, clear_failures, finish_attempt, job_images
from tasks.jobs.poison import images_out_of_memory, layout_to_isolate
from tasks.process.context import Context

log = structlog.get_logger(__name__)

OUTAGE_PAUSE_S = 0.5  # the first

DETAIL_LIMIT = 500  # characters of what a cluster says; a scheduler counts every kind of node

_STATE_OF = {
    Phase.WAITING_QUOTA: JobState.WAITING_QUOTA,
    Phase.PENDING: JobState.PENDING,
    Phase.RUNNING: JobState.RUNNING,
}
_STARTED = {JobState.LAUNCHING, *_STATE_OF.values()}


def run_job(context: Context, lease: Lease) -> None:
    """See the job through until it is over, waits for its next attempt, or is no longer ours.

    When the worker stops, the job is handed over at once and its pod left alone. Outages of Redis, S3 or the cluster
    are waited out: they are no failure of the job.
    """
    with structlog.contextvars.bound_contextvars(batch=lease.job.batch_id, job=lease.job.index):
        log.info("job claimed", state=lease.job.state.value)
        try:
            _run_steps(context, lease.job.ref, lease.fence, step)
        except (LeaseLost, UnknownBatch) as error:
            log.warning("job is no longer ours", reason=str(error))
        except RecordUnreadable as error:
            log.error("job is put back", reason=str(error))
            context.ledger.leases.release(lease.job.ref, lease.fence, delay_s=UNREADABLE_DELAY_S)
        except Exception as error:  # whatever it is, it must not keep this worker from its other jobs
            log.exception("our own program failed over this job")
            _retry_or_abandon(context, lease, f"{type(error).__name__}: {error}")


def _run_steps(context: Context, ref: str, fence: str, one_step: Callable[[Context, Held, str], bool]) -> None:
    """Take steps until there is nothing more to do under this lease, or the worker stops."""
    outages = 0  # in a row
    while True:
        try:
            if context.stopping.is_set() or context.handing_over.is_set():
                context.ledger.leases.release(ref, fence)
                log.info("job handed over")
                return
            held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
            if is_final(held.job.state) or not one_step(context, held, fence):
                return
        except StaleWrite:
            continue  # an answer was lost and our own write stands, or somebody moved it: look again
        except RecordUnreadable:
            raise  # no outage: another version is waited for
        except ServiceError as error:
            outages += 1
            pause_s = backoff_s(outages, first_s=OUTAGE_PAUSE_S)
            log.warning("waiting for an outage to end", reason=str(error), pause_s=pause_s)
            if not isinstance(error, LedgerUnavailable):
                _record_outage(context, ref, fence, str(error))
            if context.stopping.wait(pause_s):
                return  # it may not be reachable to hand over; the lease ends by itself
            continue
        outages = 0
        context.stopping.wait(context.settings.observe_s)


def _record_outage(context: Context, ref: str, fence: str, reason: str) -> None:
    """Put what the job waits for into its record, where `tessera status` shows it; it never matters if it fails."""
    try:
        held = context.ledger.leases.renew(ref, fence, context.settings.lease_s)
        job, detail = held.job, redacted(reason)[:DETAIL_LIMIT]
        if job.state in _STARTED and job.detail != detail:
            context.ledger.jobs.write(changed(job, at=held.at, detail=detail), QueuePlace.HELD, fence=fence)
    except TesseraError as error:
        log.debug("what is waited for was not noted", reason=str(error))


def _retry_or_abandon(context: Context, lease: Lease, reason: str) -> None:
    """Try the job again later; after as many times as an attempt may fail, give it up."""
    leases, ref, fence = context.ledger.leases, lease.job.ref, lease.fence
    delay_s = retry_policy.LONGEST_DELAY_S
    try:
        times = leases.count_internal_error(ref, fence)
        if times < context.settings.max_attempts:
            delay_s = backoff_s(times, first_s=retry_policy.FIRST_DELAY_S, longest_s=retry_policy.LONGEST_DELAY_S)
        else:
            log.error("job is given up", times=times)
            said = f"{reason} ({times} times; the workers' logs say where)"
            _run_steps(context, ref, fence, lambda *args: _abandon(*args, reason=said))
    except TesseraError as error:
        log.warning("job is put off", reason=str(error))
    except Exception:  # it cannot even be given up: somebody must look, and no pod may be wasted until then
        log.exception("job cannot be given up", next_try_s=delay_s)
    try:
        leases.release(ref, fence, delay_s=delay_s)  # nothing happens if it is over
    except ServiceError as error:
        log.warning("the lease ends by itself", reason=str(error))


def _abandon(context: Context, held: Held, fence: str, *, reason: str) -> bool:
    """One step towards the end of a job that is given up; False when it is over."""
    job = held.job
    if job.attempt is not None and job.state not in (JobState.QUEUED, JobState.RETRYING):
        seen = context.observer.look(after=time.monotonic()).get(job.attempt.name)
        context.launcher.delete(job.attempt.name)
        if seen is not None and seen.phase is not Phase.ENDED:
            return True
    abandon_job(context, job, fence, reason)
    return False


def step(context: Context, held: Held, fence: str) -> bool:
    """One step of one job; False when there is nothing more to do under this lease."""
    job, cancelling = held.job, held.batch is BatchState.CANCELLING
    if job.state in (JobState.QUEUED, JobState.RETRYING):
        if cancelling:
            cancel_job(context, job, fence)
            return False
        if held.batch is BatchState.PAUSED:
            context.ledger.leases.release(job.ref, fence)  # whoever claims next puts it aside
            return False
        if job.reopen is not None:
            job = clear_failures(context, job, fence)
        job = record_attempt(context, job, held.at, fence)
    if job.attempt is None:
        raise ValueError(f"job {job.ref} is {job.state.value} without an attempt")
    held = replace(held, job=job)
    with structlog.contextvars.bound_contextvars(attempt=job.attempt.number):
        if not job.confirmed and not cancelling:
            return launch(context, held, job.attempt, fence)
        return observe(context, held, job.attempt, fence)


def record_attempt(context: Context, job: JobRecord, at: datetime, fence: str) -> JobRecord:
    settings = context.settings
    number = job.attempt.number + 1 if job.attempt else 1
    choice = _choose_layout(context, job)
    spec = AttemptSpec(
        name=attempt_name(job.incarnation, job.index, number),
        batch_id=job.batch_id,
        incarnation=job.incarnation,
        job_index=job.index,
        number=number,
        token=secrets.token_hex(16),
        # A running batch keeps its program when the deployment is upgraded.
        image=context.ledger.batches.get(job.batch_id).manifest.image or settings.image,
        gpus=settings.gpus,
        layout=choice.layout,
        exact=settings.exact,
        warmup_steps=settings.warmup_steps,
        device=settings.device,
        dtype=settings.dtype,
        vae_dtype=settings.vae_dtype,
        idle_ranks=settings.idle_ranks,
        lean=images_out_of_memory(job),
        shard_key=BatchObjects(job.batch_id).shard(job.index),
        deadline_s=settings.deadline_s,
        avoid_nodes=tuple(sorted({e.node for e in job.ended if e.node and e.code is Code.GPU_UNHEALTHY})),
    )
    launching = advance(
        job,
        JobState.LAUNCHING,
        at=at,
        attempt=spec,
        layout_reason=choice.reason,
        confirmed=False,
        detail="",
    )
    context.ledger.jobs.write(launching, QueuePlace.HELD, fence=fence)
    return launching


def _choose_layout(context: Context, job: JobRecord) -> LayoutChoice:
    settings = context.settings
    if settings.layout is not None:
        choice = LayoutChoice(planned_layout(settings.gpus, settings.layout), "TESSERA_LAYOUT names it")
    elif settings.goal == "throughput":
        # Models that are gone fail in the pod, with a reason.
        native_px = {name: model.native_px for name, model in settings.models.items()}
        rows = [task.row for task in job_images(context, job)]
        loads = [Load(r.width, r.height, tera_operations(r, native_px.get(r.model, r.width))) for r in rows]
        choice = fastest_layout(settings.gpus, loads, one_gpu_megapixels=settings.one_gpu_megapixels)
    else:
        choice = LayoutChoice(planned_layout(settings.gpus), "the goal is latency: all GPUs on one image")
    if job.ended and len(job.ended[-1].rendering) > 1:
        single = layout_to_isolate(job_images(context, job), settings.gpus, choice.layout)
        choice = LayoutChoice(single, "one image at a time, to find out which one killed the pod before")
    return choice


def launch(context: Context, held: Held, spec: AttemptSpec, fence: str) -> bool:
    job = held.job
    try:
        # A pod that had its token was created; gone since, it has ended.
        begun = held.registered == spec.number
        result = LaunchResult.ADOPTED if begun else context.launcher.launch(spec)
    except NameTaken as error:
        # Created before and gone since, or not ours: never create it again, count it as an attempt that ended.
        finish_attempt(context, job, fence, Outcome(Code.UNKNOWN, str(error)))
        return False
    log.info("attempt launched", name=spec.name, how=result.value)
    context.ledger.jobs.write(changed(job, at=held.at, confirmed=True), QueuePlace.HELD, fence=fence)
    return True


def observe(context: Context, held: Held, spec: AttemptSpec, fence: str) -> bool:
    job, paused = held.job, held.batch is BatchState.PAUSED
    seen = context.observer.look().get(spec.name)
    if seen is None:  # the shared look may be older than the launch
        seen = context.observer.look(after=time.monotonic()).get(spec.name)
    if held.batch is BatchState.CANCELLING:
        if seen is None or seen.phase is Phase.ENDED:
            cancel_job(context, job, fence)
            context.launcher.delete(spec.name)
            return False
        context.launcher.delete(spec.name)
        return True
    if paused and seen is not None and seen.phase in (Phase.WAITING_QUOTA, Phase.PENDING):
        context.launcher.delete(spec.name)  # one that renders ends by itself, between two images
        return True
    if seen is None and paused:
        seen_outcome: Outcome | None = Outcome(Code.PAUSED, "the attempt was ended because its batch is paused")
    elif seen is None:
        seen_outcome = Outcome(Code.DELETED, "the attempt is gone, and nobody here deleted it")
    else:
        seen_outcome = seen.outcome
    if seen_outcome is not None:
        finish_attempt(context, job, fence, seen_outcome)
        context.launcher.delete(spec.name)
        return False
    if seen is not None:
        record_progress(context, held, _STATE_OF[seen.phase], seen.detail[:DETAIL_LIMIT], fence)
    return True


def record_progress(context: Context, held: Held, state: JobState, detail: str, fence: str) -> None:
    """Write down what the attempt does, if that is news."""
    job = held.job
    if state is not job.state:
        moved = advance(job, state, at=held.at, detail=detail)
    elif detail != job.detail:
        moved = changed(job, at=held.at, detail=detail)
    else:
        return
    log.info("attempt moved", state=state.value, detail=detail)
    context.ledger.jobs.write(moved, QueuePlace.HELD, fence=fence)
