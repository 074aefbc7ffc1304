"""Finish an attempt that has ended: the bucket, not the pod's report, decides which images are done."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime

import structlog

from pipeline.bucket.commit import commit_failure
from pipeline.bucket.job_outcomes import confirmed_outcomes, known_outcomes, reported_outcomes
from pipeline.deployment.broker import FINALIZE, send_hint
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.attempt import AttemptOutcome
from pipeline.records.batch import AttemptEnd, JobRecord, advance, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import (
    FailureCode,
    ImageFailure,
    ImageOutcome,
    ImageResult,
    failure_of,
    is_retried,
    outcome_lines,
)
from pipeline.records.shards import ImageTask
from pipeline.states import ImageState, JobState
from tasks.jobs.images import images_at_hand, job_images
from tasks.jobs.learn import learn
from tasks.jobs.outage import REASON_LIMIT
from tasks.jobs.poison import find_poison, find_suspects
from tasks.jobs.retry_policy import GiveUp, Limits, Retry, Tally, decide
from tasks.jobs.trial import give_up, note_end
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def finish_attempt(context: Context, job: JobRecord, fence: str, ended: AttemptOutcome, *, at: datetime) -> None:
    """Finish the job if every image has an outcome; otherwise have it tried again, or give it up.

    `at` is when its end was seen, by the ledger's clock.

    Raises LeaseLost, StaleWrite or ServiceError; then nothing final was written, and doing it again gives the same.
    """
    if job.attempt is None:
        raise ValueError(f"job {job.ref} has no attempt that could have ended")
    spec, tasks = job.attempt, job_images(context, job)
    objects = BatchObjects(job.batch_id)
    reported = reported_outcomes(context.artifacts, objects, job.index)
    known = confirmed_outcomes(context.artifacts, objects, tasks, reported.outcomes, by_key=True)
    undone = [task for task in tasks if task.index not in known]
    tally = Tally(job.spent, job.disrupted, job.isolated) if len(known) == job.done else Tally()
    suspected = find_suspects(context, job, undone, ended)
    history = AttemptEnd(
        number=spec.number,
        code=ended.code,
        reason=ended.reason,
        ended_at=at,
        node=ended.node,
        rendering=tuple(task.index for task in suspected),
    )
    job = job.model_copy(update={"ended": (*job.ended, history)})
    context.metrics.count_attempt(ended)
    log.info("attempt ended", code=ended.code.value, reason=ended.reason, images=len(tasks), undone=len(undone))
    if (poison := find_poison(job, suspected)) is not None:
        log.error("image isolated", image=poison.image_id, reason=poison.message)
        commit_failure(context.artifacts, objects, poison)
        known[poison.index] = poison
        undone = [task for task in undone if task.index != poison.index]
    if not undone:
        note_end(context, job, spec, ended, "")
        # A worker that died while it gave the job up has already written the failures.
        state = final_state(known.values())
        as_written = reported.outcomes if reported.whole else None
        finish_job(context, job, fence, state=state, tasks=tasks, known=known, reported=as_written, at=at)
        learn(context, known.values(), ended.report.usage if ended.report else None, spec.gpus)
        return
    limits = Limits(context.settings.max_attempts, context.settings.max_disruptions)
    decision = decide(ended, tally, limits, isolated=poison is not None, random=random.random)
    note_end(context, job, spec, ended, decision.reason if isinstance(decision, GiveUp) else "")
    if isinstance(decision, GiveUp):
        log.error("job failed", reason=decision.reason, undone=len(undone))
        fail_job(
            context,
            job,
            fence,
            tasks=tasks,
            known=known,
            code=FailureCode.ATTEMPTS_EXHAUSTED,
            reason=decision.reason,
        )
        return
    retry_job(context, job, fence, known=known, undone=undone, decision=decision)
    log.warning("job will be retried", delay_s=round(decision.delay_s, 1), code=ended.code.value)


def retry_job(
    context: Context,
    job: JobRecord,
    fence: str,
    *,
    known: dict[int, ImageOutcome],
    undone: list[ImageTask],
    decision: Retry,
) -> None:
    """Queue the images that were left undone, and have the job claimed again after a delay."""
    record_outcomes(context, job, fence, known)
    left = [task.index for task in undone]
    context.ledger.images.move_by_worker(
        job.batch_id, job.ref, left, ImageState.QUEUED, incarnation=job.incarnation, fence=fence
    )
    tally = asdict(decision.tally) | {"done": len(known)}
    retrying = advance(job, JobState.RETRYING, at=context.ledger.now(), **tally)
    context.ledger.jobs.write(retrying, QueuePlace.DELAYED, fence=fence, delay_s=decision.delay_s)


def abandon_job(context: Context, job: JobRecord, fence: str, code: FailureCode, reason: str) -> None:
    """End a job that cannot go on: what is committed stays, the rest has failed. Nothing of it runs.

    Images that nobody knows any more are left to the batch's finalization. Raises as `finish_attempt`.
    """
    tasks = images_at_hand(context, job.batch_id, job.index, job.images)
    known = known_outcomes(context.artifacts, BatchObjects(job.batch_id), job.index, tasks, by_key=True)
    give_up(context, job, tasks)
    fail_job(context, job, fence, tasks=tasks, known=known, code=code, reason=reason)


def cancel_job(context: Context, job: JobRecord, fence: str) -> None:
    """End a job of a cancelled batch: what is committed stays, the rest is cancelled. Nothing of it runs.

    Images that nobody knows any more are left to the batch's finalization. Raises as `finish_attempt`.
    """
    tasks = images_at_hand(context, job.batch_id, job.index, job.images)
    began = job.attempt is not None or job.last_number > 0  # before that nobody renders, and there may be a million
    known = known_outcomes(context.artifacts, BatchObjects(job.batch_id), job.index, tasks, by_key=began)
    for task in tasks:  # only in the job's fragment: an object for each could be a million
        if task.index not in known:
            known[task.index] = failure_of(task, FailureCode.CANCELLED, "the batch was cancelled", retryable=True)
    give_up(context, job, tasks)
    finish_job(context, job, fence, state=JobState.CANCELLED, tasks=tasks, known=known)


def end_unasked(context: Context, job: JobRecord, fence: str, reason: str) -> None:
    """End a job as failed without a look at its images, because every other end failed: finalization looks at them.

    Raises LeaseLost, StaleWrite, LedgerUnavailable.
    """
    failed = job.model_copy(update={"detail": reason[:REASON_LIMIT]})
    finish_job(context, failed, fence, state=JobState.FAILED, tasks=[], known={})


def fail_job(
    context: Context,
    job: JobRecord,
    fence: str,
    *,
    tasks: list[ImageTask],
    known: dict[int, ImageOutcome],
    code: FailureCode,
    reason: str,
) -> None:
    """End the job as failed; images without an outcome get a failure with this code and reason."""
    objects = BatchObjects(job.batch_id)
    complete = dict(known)
    for task in tasks:
        if task.index not in complete:
            failure = failure_of(task, code, reason, retryable=True)
            commit_failure(context.artifacts, objects, failure)
            complete[task.index] = failure
    finish_job(context, job, fence, state=JobState.FAILED, tasks=tasks, known=complete)


def finish_job(
    context: Context,
    job: JobRecord,
    fence: str,
    *,
    state: JobState,
    tasks: list[ImageTask],
    known: dict[int, ImageOutcome],
    reported: Mapping[int, ImageOutcome] | None = None,
    at: datetime | None = None,
) -> None:
    """Write the job's fragment, then its images and itself to the ledger; the last job of a batch has it finalized.

    A fragment that says the same already is left as the pod wrote it. `at` is the time by the ledger's clock, which is
    asked for otherwise.
    """
    if tasks and known != reported:
        write_fragment(context, job, [known[task.index] for task in tasks])
    record_outcomes(context, job, fence, known)
    ended = advance(job, state, at=at or context.ledger.now())
    left = context.ledger.jobs.write(ended, QueuePlace.DONE, fence=fence)
    context.metrics.count_images(known.values())
    log.info("job finished", state=state.value, jobs_left=left)
    if left == 0:
        send_hint(context.app, FINALIZE, job.batch_id)


def write_fragment(context: Context, job: JobRecord, outcomes: Iterable[ImageOutcome]) -> None:
    """Store the outcome of every image of a job, in order."""
    key = BatchObjects(job.batch_id).fragment(job.index)
    context.artifacts.put(key, outcome_lines(outcomes), content_type="application/x-ndjson")


def final_state(outcomes: Iterable[ImageOutcome]) -> JobState:
    """The state of a job whose images have these outcomes."""
    codes = {outcome.code for outcome in outcomes if isinstance(outcome, ImageFailure)}
    if FailureCode.CANCELLED in codes:
        return JobState.CANCELLED
    gave_up = codes & {FailureCode.ATTEMPTS_EXHAUSTED, FailureCode.INTERNAL}
    return JobState.FAILED if gave_up else JobState.SUCCEEDED


def record_outcomes(context: Context, job: JobRecord, fence: str, known: dict[int, ImageOutcome]) -> None:
    """Move the images in the ledger to the states that the bucket says; those that are there already stay."""
    for state in (ImageState.SUCCEEDED, ImageState.CANCELLED, ImageState.FAILED):
        indices = [index for index, outcome in known.items() if _state_of(outcome) is state]
        if indices:
            context.ledger.images.move_by_worker(
                job.batch_id, job.ref, indices, state, incarnation=job.incarnation, fence=fence
            )


def _state_of(outcome: ImageOutcome) -> ImageState:
    if isinstance(outcome, ImageResult):
        return ImageState.SUCCEEDED
    return ImageState.CANCELLED if outcome.code is FailureCode.CANCELLED else ImageState.FAILED


def clear_failures(context: Context, job: JobRecord, fence: str) -> JobRecord:
    """Make the failures of a reopened job images to render again; returns the job.

    The ledger first: if this is cut short, an image that is queued there and still has its failure is found again.
    """
    codes = job.reopen or ()
    objects = BatchObjects(job.batch_id)
    tasks = job_images(context, job)
    outcomes = dict(reported_outcomes(context.artifacts, objects, job.index).outcomes)
    if any(task.index not in outcomes for task in tasks):  # the fragment is damaged
        outcomes = confirmed_outcomes(context.artifacts, objects, tasks, outcomes, by_key=True) | outcomes
    retried = [task for task in tasks if task.index not in outcomes or is_retried(outcomes[task.index], codes)]
    again = [task.index for task in retried]
    context.ledger.images.reopen(job.batch_id, job.ref, again, incarnation=job.incarnation, fence=fence)
    for task in retried:
        context.artifacts.delete(objects.failure(task.row.row, task.number))
    ready = changed(
        job,
        at=context.ledger.now(),
        reopen=None,
        spent=0,
        disrupted=0,
        isolated=0,
        done=len(tasks) - len(retried),
        # Earlier deaths were judged in the round that they happened in.
        ended=tuple(end.model_copy(update={"rendering": ()}) for end in job.ended),
    )
    context.ledger.jobs.write(ready, QueuePlace.HELD, fence=fence)
    return ready
