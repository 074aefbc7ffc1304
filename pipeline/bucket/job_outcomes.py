"""What became of the images of one job, by what the bucket holds.

The pod's fragment and one list answer first, for a whole job costs two requests then. Neither is believed when it says
that something is missing: a list may be late, and a fragment damaged. Such an image is asked for by its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import committed_failure, committed_result
from pipeline.bucket.fetch import fetch_lines
from pipeline.bucket.sizes import listed_sizes
from pipeline.errors import RecordUnreadable
from pipeline.process.parallel import in_order
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import (
    FailureCode,
    ImageOutcome,
    ImageResult,
    failure_of,
    is_result_of,
    parsed_outcomes,
)
from pipeline.records.shards import ImageTask

log = structlog.get_logger(__name__)

AT_A_TIME = 16  # images that are asked for by their keys


@dataclass(frozen=True)
class Reported:
    """What the fragment of a job says.

    Attributes:
        outcomes: by the image's index; nothing if there is no fragment.
        whole: it is there, and every line of it could be read and speaks of an image of its own.
    """

    outcomes: Mapping[int, ImageOutcome]
    whole: bool


def known_outcomes(
    artifacts: Artifacts, objects: BatchObjects, job: int, tasks: Sequence[ImageTask], *, by_key: bool
) -> dict[int, ImageOutcome]:
    """The outcome of every image of a job that has one, by its index: from the pod's fragment where the bucket agrees.

    `by_key` as in `confirmed_outcomes`. Raises StoreUnavailable.
    """
    reported = reported_outcomes(artifacts, objects, job)
    return confirmed_outcomes(artifacts, objects, tasks, reported.outcomes, by_key=by_key)


def reported_outcomes(artifacts: Artifacts, objects: BatchObjects, job: int) -> Reported:
    """What the fragment of a job says; a line that cannot be read says nothing. Raises StoreUnavailable."""
    key = objects.fragment(job)
    outcomes: dict[int, ImageOutcome] = {}
    found = fetch_lines(artifacts, key)
    if found is None:
        return Reported({}, whole=False)
    lines = 0
    for number, line in enumerate(found, 1):
        if not line.strip():
            continue
        lines += 1
        try:
            outcomes |= {outcome.index: outcome for outcome in parsed_outcomes([line], key, objects)}
        except RecordUnreadable as error:
            log.warning("a line of a fragment is passed over", line=number, reason=str(error))
    return Reported(outcomes, whole=len(outcomes) == lines)


def confirmed_outcomes(
    artifacts: Artifacts,
    objects: BatchObjects,
    tasks: Sequence[ImageTask],
    reported: Mapping[int, ImageOutcome],
    *,
    by_key: bool,
) -> dict[int, ImageOutcome]:
    """The outcome of every one of these images that has one, by its index: as reported where the bucket agrees.

    Asks for what the images may have put there and for nothing else, however much lies beside it.

    Args:
        by_key: ask for each image that neither report nor list knows, because one that has an outcome must not count
            as lost; False where a late list does no harm, and where most have none.

    A picture of which nothing can be read has failed with E_UNREADABLE. Raises StoreUnavailable.
    """
    listed = listed_sizes(artifacts, {task.index: task.key(objects) for task in tasks})
    known: dict[int, ImageOutcome] = {}
    for task in tasks:
        report, size = reported.get(task.index), listed.get(task.key(objects))
        if isinstance(report, ImageResult) and report.size_bytes == size and is_result_of(task, objects, report):
            known[task.index] = report
    unclear = [task for task in tasks if task.index not in known]
    asked = [task for task in unclear if by_key or task.key(objects) in listed]
    known |= _each(lambda task: _result_or_why_not(artifacts, objects, task), asked)
    without = [task for task in tasks if task.index not in known]
    if not by_key:
        failures = {task.index: objects.failure(task.row.row, task.number) for task in without}
        written = listed_sizes(artifacts, failures)
        without = [task for task in without if failures[task.index] in written]
    return known | _each(lambda task: committed_failure(artifacts, objects, task), without)


def _each(find: Callable[[ImageTask], ImageOutcome | None], tasks: Sequence[ImageTask]) -> dict[int, ImageOutcome]:
    found = zip(tasks, in_order(find, tasks, at_a_time=AT_A_TIME), strict=True) if tasks else ()
    return {task.index: outcome for task, outcome in found if outcome is not None}


def _result_or_why_not(artifacts: Artifacts, objects: BatchObjects, task: ImageTask) -> ImageOutcome | None:
    try:
        return committed_result(artifacts, objects, task)
    except RecordUnreadable as error:
        return unreadable(task, error)


def unreadable(task: ImageTask, error: RecordUnreadable) -> ImageOutcome:
    """The outcome of an image whose picture is there, and of which this version can read nothing."""
    reason = f"{error}; a version that can read it counts it when the batch is retried"
    return failure_of(task, FailureCode.UNREADABLE, reason, retryable=True)
