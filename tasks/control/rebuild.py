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
from pipeline.bucket.commit import commit_failure
from pipeline.bucket.fetch import fetch_marker, fetch_outcomes
from pipeline.bucket.job_outcomes import known_outcomes
from pipeline.bucket.sizes import sizes_there
from pipeline.errors import RecordTooNew, RecordUnreadable, StaleWrite
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.attempt import AttemptPhase, Observation
from pipeline.records.batch import BatchRecord, JobRecord, changed
from pipeline.records.coverage import Coverage
from pipeline.records.end_marker import EndMarker, Vouched
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.records.results import ImageOutcome, ImageResult, lost_failure, outcome_lines
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
    if _is_there(context, job):
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


def _is_there(context: Context, job: JobRecord) -> bool:
    """Whether the job is in the ledger. One of a record of its batch that was lost is removed."""
    try:
        there = context.ledger.jobs.get(job.ref)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        log.error("a job is made anew", job=job.ref, reason=str(error))
    else:
        if there is None or there.incarnation == job.incarnation:
            return there is not None
    context.ledger.batches.remove_job(context.ledger.batches.get(job.batch_id), job.index)
    return False


def end_of(artifacts: Artifacts, objects: BatchObjects) -> EndMarker | None:
    """How the batch ended, by its marker."""
    for state in MARKERS:
        if (marker := fetch_marker(artifacts, objects, state)) is not None:
            return marker
    return None


def restore_ended_batch(context: Context, record: BatchRecord, end: EndMarker, now: datetime) -> bool:
    """Put a batch that has ended into the ledger: its marker says how it ended, its fragments hold every outcome.

    False if they do not, or if its results are gone: nothing of it can be believed then but the objects of its images.
    Some of its jobs may be in the ledger then.
    """
    jobs = 0
    if end.state is not BatchState.FAILED:
        if end.damaged or not _has_results(context.artifacts, BatchObjects(record.id), end.vouched):
            return False
        restored = restore_from_fragments(context, record, now, jobs=end.vouched.jobs if end.vouched else None)
        if restored is None:
            return False
        jobs = restored
    # Not by `advance`: the batch made its moves before it was lost.
    ended = changed(record, at=now, state=end.state, jobs=jobs or None, reason=end.reason)
    try:
        context.ledger.batches.write(ended)
    except StaleWrite as error:
        log.info("already done by another worker", batch=record.id, reason=str(error))
    return True


def _has_results(artifacts: Artifacts, objects: BatchObjects, vouched: Vouched | None) -> bool:
    """Whether the files of results are there, as large as they were written where that is known."""
    sizes = (vouched.results.size_bytes, vouched.errors.size_bytes) if vouched is not None else (None, None)
    for key, size_bytes in zip((objects.results, objects.errors), sizes, strict=True):
        there = artifacts.head(key)
        if there is None or size_bytes not in (None, there.size_bytes):
            log.error("results are gone, or not as they were written", batch=objects.batch_id, key=key)
            return False
    return True


def restore_from_fragments(
    context: Context, record: BatchRecord, now: datetime, *, jobs: int | None = None, asking: bool = False
) -> int | None:
    """Create every job of a batch as it ended, by its fragment; returns how many there are.

    With `asking`, each picture is asked for; one that is gone has failed with E_LOST, for this is done where nobody can
    render it again. None if the fragments do not hold exactly one outcome of every image.
    """
    objects, coverage = BatchObjects(record.id), Coverage(record.manifest.images)
    wanted = jobs if jobs is not None else _fragments(context.artifacts, objects, record.manifest.images)
    for index in range(wanted):
        try:
            outcomes = fetch_outcomes(context.artifacts, objects, index)
        except RecordTooNew:
            raise
        except RecordUnreadable as error:
            log.error("fragment cannot be read", batch=record.id, job=index, reason=str(error))
            return None
        if not outcomes or not all(coverage.add(one.index) for one in outcomes):
            log.error("fragment is gone, or of other images", batch=record.id, job=index)
            return None
        if asking:
            outcomes = _asked_for(context, record, index, outcomes)
        _restore_ended_job(context, record, index, outcomes, now)
    if coverage.left:
        log.error("images are in no fragment", batch=record.id, images=coverage.left)
        return None
    return wanted


def _fragments(artifacts: Artifacts, objects: BatchObjects, images: int) -> int:
    """How many fragments there are. A list may be late, so those behind its last are asked for."""
    number = sum(1 for key in artifacts.list(objects.fragments) if objects.job_of(key, images) is not None)
    while artifacts.head(objects.fragment(number)) is not None:
        number += 1
    return number


def _asked_for(context: Context, record: BatchRecord, index: int, outcomes: list[ImageOutcome]) -> list[ImageOutcome]:
    """These outcomes as they are now: pictures that are gone have failed, which is written down."""
    objects, artifacts = BatchObjects(record.id), context.artifacts
    there = sizes_there(artifacts, {one.index: one.key for one in outcomes if isinstance(one, ImageResult)})
    lost = [one for one in outcomes if isinstance(one, ImageResult) and one.key not in there]
    if not lost:
        return outcomes
    failures = {one.index: lost_failure(one) for one in lost}
    for failure in failures.values():
        commit_failure(artifacts, objects, failure)
    now = [failures.get(one.index, one) for one in outcomes]
    artifacts.put(objects.fragment(index), outcome_lines(now), content_type="application/x-ndjson")
    return now


def _restore_ended_job(
    context: Context, record: BatchRecord, index: int, outcomes: list[ImageOutcome], now: datetime
) -> None:
    job = JobRecord.queued(record, index, len(outcomes), now).model_copy(update={"state": final_state(outcomes)})
    if not _is_there(context, job):
        record_outcomes(context, job, "", {outcome.index: outcome for outcome in outcomes})
        context.ledger.jobs.create(job, QueuePlace.DONE)
