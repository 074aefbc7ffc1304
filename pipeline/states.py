"""The states of batches, jobs and images, and every legal move between them.

A state missing from the keys of its table is final. Every move that is not in a table is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class BatchState(StrEnum):
    VALIDATING = "validating"  # accepted; the controller has yet to cut it into jobs
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    FINALIZING = "finalizing"  # every job is final; results are being written
    COMPLETED = "completed"  # every image has an outcome, good or bad, and the results are there
    FAILED = "failed"  # could not be run at all; the record says why
    CANCELLED = "cancelled"


class JobState(StrEnum):
    QUEUED = "queued"
    LAUNCHING = "launching"  # an attempt is on record; whether it was created is not known yet
    WAITING_QUOTA = "waiting_quota"
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"  # waits for its delay before the next attempt
    SUCCEEDED = "succeeded"  # every image of it has an outcome
    FAILED = "failed"  # its last attempt ended and images of it have no picture
    CANCELLED = "cancelled"


class ImageState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_B, _J, _I = BatchState, JobState, ImageState

BATCH_MOVES: Mapping[BatchState, frozenset[BatchState]] = {
    _B.VALIDATING: frozenset({_B.IN_PROGRESS, _B.PAUSED, _B.CANCELLING, _B.FAILED}),
    _B.IN_PROGRESS: frozenset({_B.PAUSED, _B.CANCELLING, _B.FINALIZING, _B.FAILED}),
    # Back to where it came from; and its last images may have been the ones that were to finish.
    _B.PAUSED: frozenset({_B.VALIDATING, _B.IN_PROGRESS, _B.CANCELLING, _B.FINALIZING}),
    _B.CANCELLING: frozenset({_B.CANCELLED, _B.FAILED}),
    _B.FINALIZING: frozenset({_B.COMPLETED, _B.FAILED}),
}

_ATTEMPT_ENDS = frozenset({_J.RETRYING, _J.SUCCEEDED, _J.FAILED, _J.CANCELLED})

# A slow poller may see a pod for the first time when it has already ended, so every state of a live attempt leads
# to every later one. None leads backwards, except that a pod which lost its node may be pending again in its Job.
JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    # Retrying without an attempt: what it needs for the first one is away.
    _J.QUEUED: frozenset({_J.LAUNCHING, _J.RETRYING, _J.FAILED, _J.CANCELLED}),
    _J.LAUNCHING: frozenset({_J.WAITING_QUOTA, _J.PENDING, _J.RUNNING}) | _ATTEMPT_ENDS,
    _J.WAITING_QUOTA: frozenset({_J.PENDING, _J.RUNNING}) | _ATTEMPT_ENDS,
    _J.PENDING: frozenset({_J.WAITING_QUOTA, _J.RUNNING}) | _ATTEMPT_ENDS,
    _J.RUNNING: frozenset({_J.WAITING_QUOTA, _J.PENDING}) | _ATTEMPT_ENDS,
    _J.RETRYING: frozenset({_J.LAUNCHING, _J.FAILED, _J.CANCELLED}),
}

# An image of an attempt that ended without it goes back to queued. Its picture may be in the bucket although nobody
# could say so, hence succeeded follows from every state that is not final.
IMAGE_MOVES: Mapping[ImageState, frozenset[ImageState]] = {
    _I.QUEUED: frozenset({_I.RUNNING, _I.SUCCEEDED, _I.FAILED, _I.CANCELLED}),
    _I.RUNNING: frozenset({_I.QUEUED, _I.SUCCEEDED, _I.FAILED, _I.CANCELLED}),
}

# What `tessera retry` opens again. No move: for everything else a final state is final.
REOPENED_IMAGES = frozenset({_I.FAILED, _I.CANCELLED})
REOPENED_BATCHES = frozenset({_B.COMPLETED, _B.CANCELLED})

# How an image's state is written into the four bits that the ledger keeps for it. Never renumber.
IMAGE_CODES: Mapping[ImageState, int] = {
    _I.QUEUED: 0,
    _I.RUNNING: 1,
    _I.SUCCEEDED: 2,
    _I.FAILED: 3,
    _I.CANCELLED: 4,
}

_State = TypeVar("_State", BatchState, JobState, ImageState)


def is_final(state: BatchState | JobState | ImageState) -> bool:
    """Whether nothing follows this state."""
    return state not in BATCH_MOVES and state not in JOB_MOVES and state not in IMAGE_MOVES


def sources(moves: Mapping[_State, frozenset[_State]], target: _State) -> frozenset[_State]:
    """The states from which `target` can be reached in one move."""
    return frozenset(state for state, following in moves.items() if target in following)
