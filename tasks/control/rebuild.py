"""Rebuild jobs, images and counters of a batch that the ledger lost, from the bucket and from what still runs.

An attempt that still runs is recorded as it is, so that a worker adopts it and its pod goes on, without a second one. A
job whose images all have an outcome has ended. All others are queued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.job_outcomes import known_outcomes
from pipeline.errors import StaleWrite
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.attempt import AttemptPhase, Observation
from pipeline.records.batch import BatchRecord, JobRecord, changed
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.records.results import ImageOutcome, parsed_outcomes
from pipeline.records.shards import ImageTask
from pipeline.states import BatchState
from tasks.jobs.advance_job import JOB_STATES
from tasks.jobs.finish_attempt import final_state, record_outcomes, write_fragment
from tasks.process.context import Context

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Remains:
    """What is left of a batch outside the ledger."""

    outcomes: bool  # images of it may have one
    running: Mapping[int, Observation]  # by job


def find_remains(context: Context, record: BatchRecord) -> Remains:
    """Ask the bucket and the launcher. Raises ServiceError: without knowing what runs, nothing may be started."""
    if not record.recovered:
        return Remains(outcomes=False, running={})
    objects = BatchObjects(record.id)
    running = {
        seen.spec.job_index: seen
        for seen in context.launcher.observe().values()
        if seen.spec is not None and seen.spec.batch_id == record.id and seen.phase is not AttemptPhase.ENDED
    }
    has_outcomes = any(next(context.artifacts.list(folder), None) for folder in objects.outcome_folders)
    return Remains(outcomes=has_outcomes, running=running)


def restore_job(context: Context, job: JobRecord, tasks: Sequence[ImageTask], remains: Remains) -> None:
    """Create the job in the ledger in the state that its remains show; an existing one stays as it is."""
    if context.ledger.jobs.get(job.ref) is not None:
        return
    objects = BatchObjects(job.batch_id)
    # One that a late list hides is rendered again, and found by its commit.
    known = known_outcomes(context.artifacts, objects, job.index, tasks, by_key=False) if remains.outcomes else {}
    seen = remains.running.get(job.index)
    place = QueuePlace.BACKLOG
    if seen is not None:
        state = JOB_STATES[seen.phase]
        log.warning("running attempt adopted", batch=job.batch_id, job=job.index, name=seen.name, state=state.value)
        job = job.model_copy(update={"state": state, "attempt": seen.spec, "confirmed": True, "done": len(known)})
    elif len(known) == len(tasks):
        write_fragment(context, job, [known[task.index] for task in tasks])
        job, place = job.model_copy(update={"state": final_state(known.values())}), QueuePlace.DONE
    else:
        job = job.model_copy(update={"done": len(known)})
    # Before the job exists: afterwards a worker may claim it.
    record_outcomes(context, job, "", known)
    context.ledger.jobs.create(job, place)


def end_of(artifacts: Artifacts, objects: BatchObjects) -> BatchState | None:
    """How the batch ended, by its marker."""
    return next((state for state in MARKERS if artifacts.head(objects.marker(state)) is not None), None)


def restore_ended_batch(context: Context, record: BatchRecord, end: BatchState, now: datetime) -> None:
    """Put a batch that has ended into the ledger: its marker says how it ended, its fragments hold every outcome."""
    objects = BatchObjects(record.id)
    reason, jobs = None, 0
    if end is BatchState.FAILED:
        reason = (context.artifacts.get(objects.marker(end)) or b"").decode(errors="replace")
    else:
        for _ in context.artifacts.list(objects.fragments):
            key = objects.fragment(jobs)
            outcomes = list(parsed_outcomes(context.artifacts.lines(key), key))
            _restore_ended_job(context, record, jobs, outcomes, now)
            jobs += 1
    # Not by `advance`: the batch made its moves before it was lost.
    ended = changed(record, at=now, state=end, jobs=jobs or None, reason=reason)
    try:
        context.ledger.batches.write(ended)
    except StaleWrite as error:
        log.info("already done by another worker", batch=record.id, reason=str(error))


def _restore_ended_job(
    context: Context, record: BatchRecord, index: int, outcomes: list[ImageOutcome], now: datetime
) -> None:
    job = JobRecord.queued(record, index, len(outcomes), now).model_copy(update={"state": final_state(outcomes)})
    if context.ledger.jobs.get(job.ref) is None:
        record_outcomes(context, job, "", {outcome.index: outcome for outcome in outcomes})
        context.ledger.jobs.create(job, QueuePlace.DONE)
