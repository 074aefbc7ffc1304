"""Move one job on by one action under its lease: record an attempt, launch or adopt it, observe it, finish it.

What to do follows from the job's record alone, so that another worker can go on from it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from pipeline.deployment.layout_choice import LayoutChoice, chosen_layout
from pipeline.deployment.layouts import Layout
from pipeline.deployment.slot_choice import SlotChoice, chosen_slots, fixed_slots, slots_to_try, tries
from pipeline.deployment.speed import Speed, SpeedKey
from pipeline.errors import ServiceError
from pipeline.ledger.jobs import QueuePlace
from pipeline.ledger.leases import Held
from pipeline.names import attempt_name
from pipeline.records.attempt import (
    AttemptOutcome,
    AttemptPhase,
    AttemptSpec,
    Code,
    LaunchResult,
    NameTaken,
    Observation,
    decided_by,
    loads_of,
)
from pipeline.records.batch import JobRecord, Wait, advance, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode
from pipeline.records.shards import index_ranges
from pipeline.states import BatchState, JobState
from tasks.jobs.finish_attempt import abandon_job, cancel_job, clear_failures, finish_attempt
from tasks.jobs.images import job_images
from tasks.jobs.mend_job import FENCE_S, delete_attempt
from tasks.jobs.outage import PODS_END_WITHIN_S, REASON_LIMIT, PodGoesOn, WeightsUnderWay, has_waited, record_wait
from tasks.jobs.poison import images_out_of_memory, images_to_isolate, layout_to_isolate, slots_that_fit
from tasks.jobs.trial import ModelRefused, given_up_by, has_to_wait, note_progress
from tasks.process.context import Context

log = structlog.get_logger(__name__)

DETAIL_LIMIT = 500  # characters of a cluster's message; a scheduler lists every kind of node

_POD_ENDS = "its pod was asked to end"

# The state of a job by what its attempt does.
JOB_STATES = {
    AttemptPhase.WAITING_QUOTA: JobState.WAITING_QUOTA,
    AttemptPhase.PENDING: JobState.PENDING,
    AttemptPhase.RUNNING: JobState.RUNNING,
}


def advance_job(context: Context, held: Held, fence: str) -> bool:
    """Move a job on by one action; False when there is nothing more to do under this lease."""
    job, cancelling = held.job, held.batch is BatchState.CANCELLING
    if job.state in (JobState.QUEUED, JobState.RETRYING):
        if cancelling:
            cancel_job(context, job, fence)
            return False
        if held.batch is BatchState.PAUSED:
            context.ledger.leases.release(job.ref, fence)  # the next claim of it sets the job aside
            return False
        images = job_images(context, job)
        if (wait := context.launcher.awaits({task.row.model for task in images})) is not None:
            raise WeightsUnderWay(wait)
        job = job.model_copy(update={"indices": index_ranges(images)})
        if job.reopen is not None:
            job = clear_failures(context, job, fence)
        spec, reason = next_attempt(context, job)
        try:
            if has_to_wait(context, job, spec, fence):
                return False
        except ModelRefused as error:
            abandon_job(context, job, fence, FailureCode.ATTEMPTS_EXHAUSTED, str(error))
            return False
        job = record_attempt(context, job, spec, reason, at=held.at, fence=fence)
    if job.attempt is None:
        raise ValueError(f"job {job.ref} is {job.state.value} without an attempt")
    held = replace(held, job=job)
    with structlog.contextvars.bound_contextvars(attempt=job.attempt.number):
        if not job.confirmed and not cancelling:
            with given_up_by(context, job, job.attempt):
                return launch(context, held, job.attempt, fence)
        return observe(context, held, job.attempt, fence)


def next_attempt(context: Context, job: JobRecord) -> tuple[AttemptSpec, str]:
    """The attempt that comes next, of which nothing is recorded yet, and why it has its layout."""
    settings = context.settings
    number = (job.attempt.number if job.attempt else job.last_number) + 1
    choice = _choose_layout(context, job)
    slots = _choose_slots(context, job, choice.layout)
    spec = AttemptSpec(
        name=attempt_name(job.incarnation, job.index, number),
        batch_id=job.batch_id,
        incarnation=job.incarnation,
        job_index=job.index,
        number=number,
        token=secrets.token_hex(16),
        # A batch keeps its image when the deployment is upgraded.
        image=context.ledger.batches.get(job.batch_id).pod_image or settings.image,
        layout=choice.layout,
        **decided_by(settings, job_images(context, job)[0].row),
        lean=images_out_of_memory(job),
        slots=slots.slots,
        alone=images_to_isolate(job),
        shard_key=BatchObjects(job.batch_id).shard(job.index),
        deadline_s=settings.deadline_s,
        avoid_nodes=tuple(sorted({e.node for e in job.ended if e.node and e.code is Code.GPU_UNHEALTHY})),
    )
    return spec, choice.reason + (f"; {slots.slots} images at a time: {slots.reason}" if slots.slots > 1 else "")


def record_attempt(
    context: Context, job: JobRecord, spec: AttemptSpec, reason: str, *, at: datetime, fence: str
) -> JobRecord:
    """The job with its next attempt, which is in the ledger before anything of it is created."""
    launching = advance(
        job,
        JobState.LAUNCHING,
        at=at,
        attempt=spec,
        layout_reason=reason,
        confirmed=False,
        detail="",
        fenced_at=None,
    )
    context.ledger.jobs.write(launching, QueuePlace.HELD, fence=fence)
    return launching


def _choose_layout(context: Context, job: JobRecord) -> LayoutChoice:
    settings = context.settings
    choice = chosen_layout(
        settings.gpus,
        settings.layout,
        settings.goal,
        lambda: loads_of((task.row for task in job_images(context, job)), settings),
        one_gpu_megapixels=settings.one_gpu_megapixels,
    )
    if choice.layout.data > 1 and job.ended and len(job.ended[-1].rendering) > 1:
        single = layout_to_isolate(job_images(context, job), settings.gpus, choice.layout)
        choice = LayoutChoice(single, "one image at a time, to find out which one killed the pod before")
    return choice


def _choose_slots(context: Context, job: JobRecord, layout: Layout) -> SlotChoice:
    """How many images at a time: fewer than before if several did not fit into memory together."""
    settings, tasks = context.settings, job_images(context, job)
    largest = max((task.row for task in tasks), key=lambda row: row.width * row.height)
    of_job: dict[str, Any] = {
        "model": largest.model,
        "layout": layout,
        "exact": settings.exact,
        "pixels": largest.width * largest.height,
        "images": -(-len(tasks) // layout.data),
        "exchange": settings.displacement.exchange,
    }
    fixed = fixed_slots(settings.slots, settings.goal)
    speeds = _speeds(context) if fixed is None else {}
    choice = chosen_slots(fixed, speeds, device=settings.device, **of_job)
    if fixed is None and not job.ended and tries(str(job.ref)):
        choice = slots_to_try(choice, speeds, **of_job)
    most = slots_that_fit(job)
    if most is not None and most < choice.slots:
        return SlotChoice(most, "more did not fit into memory together")
    return choice


def _speeds(context: Context) -> Mapping[SpeedKey, Speed]:
    """What was learned; nothing while it cannot be read, since the next attempt does well without."""
    try:
        return context.ledger.speeds.all()
    except ServiceError as error:
        log.warning("slots are chosen without what was learned", reason=str(error))
        return {}


def launch(context: Context, held: Held, spec: AttemptSpec, fence: str) -> bool:
    """Have the attempt created, or adopt it if it exists; False if it has ended already."""
    job = held.job
    try:
        # A pod has registered with its token, so it was created; if it is gone, it has ended.
        begun = held.registered == spec.number
        result = LaunchResult.ADOPTED if begun else context.launcher.launch(spec)
    except NameTaken as error:
        # It was created before and is gone, or is not ours: never create it again, count it as ended.
        finish_attempt(context, job, fence, AttemptOutcome(Code.UNKNOWN, str(error)), at=held.at)
        return False
    log.info("attempt launched", name=spec.name, how=result.value)
    context.ledger.jobs.write(changed(job, at=held.at, confirmed=True, wait=None), QueuePlace.HELD, fence=fence)
    return True


def observe(context: Context, held: Held, spec: AttemptSpec, fence: str) -> bool:
    """Look at the attempt and record what it does, or finish it; False if it has ended."""
    job, paused = held.job, held.batch is BatchState.PAUSED
    try:
        seen = context.observer.look().get(spec.name)
        if seen is None:  # the shared list may be older than the launch
            seen = context.observer.look(after=time.monotonic()).get(spec.name)
    except ServiceError as error:
        if held.batch is BatchState.CANCELLING:
            take_claim(context, job, fence, f"its pod cannot be looked at: {error}")
            return False
        raise PodGoesOn(str(error)) from error
    if held.batch is BatchState.CANCELLING:
        return end_pod(context, job, seen, fence)
    if paused and seen is not None and seen.phase in (AttemptPhase.WAITING_QUOTA, AttemptPhase.PENDING):
        delete_attempt(context, spec.name)  # one that renders stops by itself, between two images
        return True
    if seen is None and paused:
        seen_outcome: AttemptOutcome | None = AttemptOutcome(
            Code.PAUSED, "the attempt was ended because its batch is paused"
        )
    elif seen is None:
        seen_outcome = AttemptOutcome(Code.DELETED, "the attempt is gone, and nobody here deleted it")
    else:
        seen_outcome = seen.outcome
    if seen_outcome is not None:
        finish_attempt(context, job, fence, seen_outcome, at=held.at)
        delete_attempt(context, spec.name)
        return False
    if seen is not None:
        note_progress(context, job, spec)
        record_progress(context, held, JOB_STATES[seen.phase], seen.detail[:DETAIL_LIMIT], fence)
    return True


def end_pod(context: Context, job: JobRecord, seen: Observation | None, fence: str) -> bool:
    """End the attempt of a cancelled batch, then its job; False once nothing of it can commit any more."""
    if job.attempt is None:
        raise ValueError(f"job {job.ref} has no attempt that could end")
    if seen is None or seen.phase is AttemptPhase.ENDED:
        cancel_job(context, job, fence)
        delete_attempt(context, job.attempt.name)
        return False
    try:
        context.launcher.delete(job.attempt.name)
    except ServiceError as error:
        take_claim(context, job, fence, f"its pod cannot be deleted: {error}")
        return False
    if job.wait is None or job.wait.reason != _POD_ENDS:
        record_wait(context, job.model_copy(update={"wait": None}), fence, _POD_ENDS)
    elif has_waited(job, PODS_END_WITHIN_S, context):
        take_claim(context, job, fence, f"its pod has not ended {PODS_END_WITHIN_S:g} s after it was asked to")
        return False
    return True


def take_claim(context: Context, job: JobRecord, fence: str, reason: str) -> None:
    """Take the claim from a pod that nobody can end now, and settle its job once the pod has noticed.

    The tick deletes the attempt as soon as that can be done, for its job does not have it on record as running.
    """
    at = context.ledger.now()
    wait = Wait(reason=reason[:REASON_LIMIT], since=at)
    fenced = advance(job, JobState.RETRYING, at=at, fenced_at=at, wait=wait)
    context.ledger.jobs.write(fenced, QueuePlace.DELAYED, fence=fence, delay_s=FENCE_S)
    log.warning("a pod has lost its claim", reason=reason)


def record_progress(context: Context, held: Held, state: JobState, detail: str, fence: str) -> None:
    """Record what the attempt does, if that has changed."""
    job = held.job
    if state is not job.state:
        moved = advance(job, state, at=held.at, detail=detail)
    elif detail != job.detail or job.wait is not None:
        moved = changed(job, at=held.at, detail=detail, wait=None)
    else:
        return
    log.info("attempt changed state", state=state.value, detail=detail)
    context.ledger.jobs.write(moved, QueuePlace.HELD, fence=fence)
