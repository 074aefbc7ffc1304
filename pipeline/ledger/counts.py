"""A batch's counters: how many of its images and jobs are in each state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import redis

from pipeline.errors import RecordUnreadable
from pipeline.states import ImageState, JobState


@dataclass(frozen=True)
class Counts:
    """How many images and jobs of a batch are in each state; every state is there."""

    images: Mapping[ImageState, int]
    jobs: Mapping[JobState, int]


def counts_of(batch_id: str, found: Mapping[str, str] | redis.ResponseError) -> Counts:
    """The counters as Redis answered: an exception, in a pipeline, where something else lies in their place.

    Raises RecordUnreadable.
    """
    try:
        if isinstance(found, redis.ResponseError):
            raise found
        return Counts(
            images={state: int(found.get(f"image.{state}", 0)) for state in ImageState},
            jobs={state: int(found.get(f"job.{state}", 0)) for state in JobState},
        )
    except (ValueError, redis.ResponseError):
        raise RecordUnreadable(f"counters of batch {batch_id}", "something else", "numbers") from None
