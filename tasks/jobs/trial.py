"""One pod tries a model that no pod has loaded yet, while the other jobs that want it wait.

So a model that cannot be loaded costs one pod, however many jobs a batch has and however many workers there are. Once a
pod has begun to render with it, the model is proven, until one cannot load it any more. What a pod finds wrong ends the
other jobs of its batch that would load the same: `tessera retry` opens a batch for another try (decision 440).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

from pipeline.errors import RecordUnreadable, TesseraError
from pipeline.process.backoff import CAP_S
from pipeline.records.attempt import AttemptOutcome, AttemptSpec, Code
from pipeline.records.batch import JobRecord
from pipeline.records.shards import ImageTask
from pipeline.states import ImageState
from tasks.jobs.images import job_images
from tasks.jobs.outage import record_wait
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# Between two looks whether the model is proven. Jobs without number look less often: together they take half a slot.
PAUSE_S, LOOK_S = 1.0, 0.02


class ModelRefused(TesseraError):
    """A pod of the batch has found that it cannot render with this model; the message says why."""


def has_to_wait(context: Context, job: JobRecord, spec: AttemptSpec, fence: str) -> bool:
    """Whether another job tries this model now; the job is given back then, and its record says why.

    Raises ModelRefused with what a pod of the job's batch found wrong with the model, LeaseLost, StaleWrite or
    ServiceError.
    """
    model = job_images(context, job)[0].row.model
    digest = _digest(context, spec, model)
    proven, wrong = context.ledger.trials.standing(digest, _in_batch(job, digest))
    if wrong is not None:
        raise ModelRefused(wrong)
    if proven or (tries := context.ledger.trials.begin(digest, job.ref)) is None:
        return False
    reason = f"job {tries} tries model {model!r}, which no pod has loaded yet"
    if job.wait is None or job.wait.reason != reason:
        record_wait(context, job, fence, reason)
    delay_s = max(PAUSE_S, min(2 * LOOK_S * context.ledger.leases.delayed(), CAP_S))
    context.ledger.leases.release(job.ref, fence, delay_s=delay_s)
    log.info("job waits until its model is proven", model=model, tried_by=tries)
    return True


@contextmanager
def given_up_by(context: Context, job: JobRecord, spec: AttemptSpec) -> Iterator[None]:
    """Let another job try the model at once where our own program fails over this one."""
    try:
        yield
    except TesseraError:
        raise
    except Exception:
        context.ledger.trials.end(_digest(context, spec, job_images(context, job)[0].row.model), job.ref)
        raise


def give_up(context: Context, job: JobRecord, tasks: Sequence[ImageTask]) -> None:
    """Let another job try the model of one that ends without an end of its attempt, as a cancelled one does."""
    if job.attempt is not None and tasks:
        context.ledger.trials.end(_digest(context, job.attempt, tasks[0].row.model), job.ref)


def note_progress(context: Context, job: JobRecord, spec: AttemptSpec) -> None:
    """Keep the trial of a running attempt, or note that its model is proven, for it has begun an image."""
    tasks = job_images(context, job)
    model = _digest(context, spec, tasks[0].row.model)
    if context.ledger.trials.is_proven(model):
        return
    try:
        states = context.ledger.images.states(job.batch_id, [task.index for task in tasks])
    except RecordUnreadable:  # it is proven by its end, then
        states = []
    if sum(state is not ImageState.QUEUED for state in states) > job.done:
        context.ledger.trials.prove(model)
    else:
        context.ledger.trials.begin(model, job.ref)


def note_end(context: Context, job: JobRecord, spec: AttemptSpec, ended: AttemptOutcome, reason: str) -> None:
    """Note what the end of an attempt says of its model.

    `reason` is what the job's images fail with; '' if they have failed already, by a worker that died meanwhile, which
    has noted the rest before.
    """
    model = _digest(context, spec, job_images(context, job)[0].row.model)
    if ended.code is Code.CONFIG_ERROR:
        if reason:
            context.ledger.trials.refuse(model, _in_batch(job, model), reason)
    elif ended.code is Code.SUCCEEDED:
        context.ledger.trials.prove(model)
    else:
        context.ledger.trials.end(model, job.ref)


def _in_batch(job: JobRecord, model: str) -> str:
    return hashlib.sha256(f"{job.incarnation} {job.round} {model}".encode()).hexdigest()[:32]


def _digest(context: Context, spec: AttemptSpec, model: str) -> str:
    """Of all that decides whether a pod can load this model, as far as a worker knows it."""
    how = (spec.image, spec.gpus, str(spec.layout), spec.exact, spec.device, spec.dtype, spec.vae_dtype)
    return context.models.of(model, context.settings.models.get(model), how)
