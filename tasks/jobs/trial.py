"""One pod tries a model that no pod has loaded yet, while the other jobs that want it wait.

So a model that cannot be loaded costs one pod, however many jobs a batch has and however many workers there are. Once a
pod has begun to render with it, the model is proven, until one cannot load it any more. What a pod finds wrong ends the
other jobs of its batch that would load the same: `tessera retry` opens a batch for another try (decision 440).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import structlog

from pipeline.deployment.settings import ModelSource
from pipeline.process.backoff import CAP_S
from pipeline.records.attempt import AttemptOutcome, AttemptSpec, Code
from pipeline.records.batch import JobRecord
from pipeline.states import ImageState
from tasks.jobs.images import job_images
from tasks.jobs.outage import record_wait
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# Between two looks whether the model is proven. Jobs without number look less often: together they take half a slot.
PAUSE_S, LOOK_S = 1.0, 0.02


def has_to_wait(context: Context, job: JobRecord, spec: AttemptSpec, fence: str) -> bool:
    """Whether another job tries this model now; the job is given back then, and its record says why.

    Raises LeaseLost, StaleWrite or ServiceError.
    """
    model = job_images(context, job)[0].row.model
    tries = context.ledger.trials.begin(_digest(context, spec, model), job.ref)
    if tries is None:
        return False
    reason = f"job {tries} tries model {model!r}, which no pod has loaded yet"
    if job.wait is None or job.wait.reason != reason:
        record_wait(context, job, fence, reason)
    delay_s = max(PAUSE_S, min(2 * LOOK_S * context.ledger.leases.delayed(), CAP_S))
    context.ledger.leases.release(job.ref, fence, delay_s=delay_s)
    log.info("job waits until its model is proven", model=model, tried_by=tries)
    return True


def refusal(context: Context, job: JobRecord, spec: AttemptSpec) -> str | None:
    """What a pod of the job's batch found wrong with the model that this attempt would load."""
    model = job_images(context, job)[0].row.model
    return context.ledger.trials.refusal(_in_batch(job, _digest(context, spec, model)))


def note_progress(context: Context, job: JobRecord, spec: AttemptSpec) -> None:
    """Keep the trial of a running attempt, or note that its model is proven, for it has begun an image."""
    tasks = job_images(context, job)
    model = _digest(context, spec, tasks[0].row.model)
    if context.ledger.trials.is_proven(model):
        return
    states = context.ledger.images.states(job.batch_id, [task.index for task in tasks])
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
    source = context.settings.models.get(model)
    how = (spec.image, spec.gpus, str(spec.layout), spec.exact, spec.device, spec.dtype, spec.vae_dtype)
    files = list(_files(source)) if source is not None else []
    what = [model, source.model_dump(mode="json") if source is not None else None, how, files]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _files(source: ModelSource) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of a model's files where this machine has them: corrected, it is to be tried again."""
    parts = [source.path, source.vae, source.text_encoders, source.config]
    parts += [source.refiner.path, source.refiner.config] if source.refiner is not None else []
    for part in parts:
        path = Path(part) if part is not None else None
        if path is None or not path.exists():
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            stat = file.stat()
            yield str(file), stat.st_size, stat.st_mtime_ns
