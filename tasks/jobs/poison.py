"""Find images that kill their pods (poison), so that no later pod renders them.

The pod reports to the ledger which image it begins. Images that were being rendered when an attempt died are suspected.
Where they are several, the next attempt renders each of them alone. One that is the only suspect, and was suspected
before, is poison and gets a failure.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from pipeline.deployment.layouts import Layout, planned_layout
from pipeline.errors import RecordUnreadable
from pipeline.records.attempt import AttemptOutcome
from pipeline.records.batch import AttemptEnd, JobRecord
from pipeline.records.results import FailureCode, ImageFailure, failure_of
from pipeline.records.shards import ImageTask
from pipeline.states import ImageState
from tasks.jobs.retry_policy import BLAMES_AN_IMAGE, WANTS_MEMORY
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def find_suspects(
    context: Context, job: JobRecord, undone: Sequence[ImageTask], ended: AttemptOutcome
) -> tuple[ImageTask, ...]:
    """The images that may have killed the attempt, of those that it left undone.

    A pod that ran out of memory over one image reports it. Otherwise it is the last that the pod began, where one
    replica renders one image at a time; earlier ones were only being uploaded. With more replicas, or several images
    at a time, it may be any that was begun since the last one that was rendered alone.
    """
    if ended.code not in BLAMES_AN_IMAGE or job.attempt is None:
        return ()
    named = ended.report.image if ended.report is not None else None
    if of_ours := tuple(task for task in undone if task.index == named):
        return of_ours
    try:
        states = context.ledger.images.states(job.batch_id, [task.index for task in undone])
    except RecordUnreadable as error:  # the batch is rebuilt when it ends; until then nobody is blamed
        log.warning("which images were begun is not known", reason=str(error))
        return ()
    begun = [task for task, state in zip(undone, states, strict=True) if state is ImageState.RUNNING]
    spec = job.attempt
    if spec.layout.data > 1:
        return tuple(begun)
    alone = [place for place, task in enumerate(begun) if spec.slots == 1 or task.index in (*spec.alone, *spec.lean)]
    last = alone[-1] if alone else -1
    return tuple(begun[last + 1 :] or begun[last:])


def find_poison(job: JobRecord, suspected: Sequence[ImageTask]) -> ImageFailure | None:
    """The failure of the image that has killed two attempts, by the history of its job; None if there is none."""
    if len(suspected) != 1:
        return None
    [task] = suspected
    deaths = [end for end in job.ended if task.index in end.rendering]
    if deaths[-1].code in WANTS_MEMORY:  # what did not fit together may fit alone, and what does not, in less
        deaths = [end for end in deaths if len(end.rendering) == 1]
    if len(deaths) < 2:
        return None
    if all(end.code in WANTS_MEMORY for end in deaths):
        reason = "it does not fit into memory, not even when rendered in as little as possible: " + "; ".join(
            map(_describe, deaths)
        )
        return failure_of(task, FailureCode.OOM, reason, retryable=True)
    return failure_of(
        task,
        FailureCode.POISON,
        f"the pod died {len(deaths)} times while it rendered this image: " + "; ".join(map(_describe, deaths)),
        retryable=True,
    )


def images_out_of_memory(job: JobRecord) -> tuple[int, ...]:
    """Images, by index, over which alone an attempt ran out of memory: the next attempt renders them in less."""
    alone = (end.rendering for end in job.ended if end.code in WANTS_MEMORY and len(end.rendering) == 1)
    return tuple(sorted({index for rendering in alone for index in rendering}))


def images_to_isolate(job: JobRecord) -> tuple[int, ...]:
    """Images, by index, that were rendered together when an attempt died: the next attempt renders each alone."""
    together = (end.rendering for end in job.ended if end.code in BLAMES_AN_IMAGE and len(end.rendering) > 1)
    return tuple(sorted({index for rendering in together for index in rendering}))


def slots_that_fit(job: JobRecord) -> int | None:
    """Half as many images at a time as ran out of memory together; None if none did."""
    if job.attempt is None or not any(end.code in WANTS_MEMORY and len(end.rendering) > 1 for end in job.ended):
        return None
    last = job.ended[-1]
    ran_out = last.code in WANTS_MEMORY and len(last.rendering) > 1
    return max(1, job.attempt.slots // 2) if ran_out else job.attempt.slots


def layout_to_isolate(tasks: Sequence[ImageTask], gpus: int, layout: Layout) -> Layout:
    """The layout of the attempt after one that left several suspects: of one replica, so that it leaves only one.

    If an image of the job is too small for so many patches, the layout stays.
    """
    single = planned_layout(gpus)
    fits = all(max(task.row.width, task.row.height) >= single.shortest_long_side_px for task in tasks)
    return single if fits else layout


def _describe(end: AttemptEnd) -> str:
    return f"attempt {end.number}: {end.code.value}: {end.reason[:300]}"
