"""Every pair of states against the moves that the design allows, through `advance` where records move by it."""

from __future__ import annotations

import itertools

import pytest

from pipeline.errors import IllegalMove
from pipeline.records.batch import advance, changed
from pipeline.states import (
    BATCH_MOVES,
    IMAGE_CODES,
    IMAGE_MOVES,
    JOB_MOVES,
    REOPENED_BATCHES,
    REOPENED_IMAGES,
    BatchState,
    ImageState,
    JobState,
    is_final,
    sources,
)
from tests.factories import at, batch_record, job_record

# Written out a second time, one line a state, so that a change of the table is a change of two files.
_BATCH = """
validating  > in_progress paused cancelling failed
in_progress > paused cancelling finalizing failed
paused      > validating in_progress cancelling finalizing
cancelling  > cancelled failed
finalizing  > completed failed
completed   >
failed      >
cancelled   >
"""
_JOB = """
queued        > launching retrying failed cancelled
launching     > waiting_quota pending running retrying succeeded failed cancelled
waiting_quota > pending running retrying succeeded failed cancelled
pending       > waiting_quota running retrying succeeded failed cancelled
running       > waiting_quota pending retrying succeeded failed cancelled
retrying      > launching failed cancelled
succeeded     >
failed        >
cancelled     >
"""
_IMAGE = """
queued    > running succeeded failed cancelled
running   > queued succeeded failed cancelled
succeeded >
failed    >
cancelled >
"""


def _moves(text: str) -> dict[str, set[str]]:
    parts = (line.split(">") for line in text.strip().splitlines())
    return {state.strip(): set(following.split()) for state, following in parts}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(BatchState, repeat=2)))
def test_a_batch_moves_as_the_table_says_and_no_other_way(before: BatchState, after: BatchState) -> None:
    record = batch_record().model_copy(update={"state": before, "revision": 3})
    if after in _moves(_BATCH)[before]:
        moved = advance(record, after, at=at(9), reason="r")
        assert (moved.state, moved.revision, moved.updated_at, moved.reason) == (after, 4, at(9), "r")
        assert (record.state, record.revision, record.reason) == (before, 3, None)
    else:
        with pytest.raises(IllegalMove, match=f"batch b is {before}; it cannot become {after}") as error:
            advance(record, after, at=at(9))
        assert (error.value.found, error.value.wanted) == (before, after)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, repeat=2)))
def test_a_job_moves_as_the_table_says_and_no_other_way(before: JobState, after: JobState) -> None:
    record = job_record(index=3, state=before, revision=3)
    if after in _moves(_JOB)[before]:
        moved = advance(record, after, at=at(9), spent=1)
        assert (moved.state, moved.revision, moved.updated_at, moved.spent) == (after, 4, at(9), 1)
        assert (record.state, record.revision, record.spent) == (before, 3, 0)
    else:
        with pytest.raises(IllegalMove, match=f"job b/00003 is {before}; it cannot become {after}"):
            advance(record, after, at=at(9))


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ImageState, repeat=2)))
def test_an_image_moves_as_the_table_says_and_no_other_way(before: ImageState, after: ImageState) -> None:
    assert (after in IMAGE_MOVES.get(before, ())) == (after in _moves(_IMAGE)[before])
    assert (before in sources(IMAGE_MOVES, after)) == (after in _moves(_IMAGE)[before])


def test_the_tables_here_name_every_state() -> None:
    for text, states in ((_BATCH, BatchState), (_JOB, JobState), (_IMAGE, ImageState)):
        assert set(_moves(text)) == {state.value for state in states}


@pytest.mark.parametrize("state", [*BatchState, *JobState, *ImageState])
def test_final_are_the_states_that_nothing_follows(state: BatchState | JobState | ImageState) -> None:
    assert is_final(state) == (state in {"completed", "failed", "cancelled", "succeeded"})


def test_every_state_is_reached_from_the_first_one() -> None:
    for moves, first, states in (
        (BATCH_MOVES, BatchState.VALIDATING, set(BatchState)),
        (JOB_MOVES, JobState.QUEUED, set(JobState)),
        (IMAGE_MOVES, ImageState.QUEUED, set(ImageState)),
    ):
        reached, edge = {first}, {first}
        while edge:
            edge = {after for before, following in moves.items() if before in edge for after in following} - reached
            reached |= edge
        assert reached == states


def test_image_codes_never_change_because_ledgers_hold_them() -> None:
    assert {state.value: code for state, code in IMAGE_CODES.items()} == {
        "queued": 0,
        "running": 1,
        "succeeded": 2,
        "failed": 3,
        "cancelled": 4,
    }
    assert set(IMAGE_CODES) == set(ImageState)
    assert max(IMAGE_CODES.values()) < 16  # four bits


def test_a_change_within_a_state_is_a_revision_too() -> None:
    record = changed(job_record(), at=at(1), confirmed=True)
    assert (record.revision, record.updated_at, record.confirmed, record.state) == (2, at(1), True, JobState.QUEUED)


def test_a_record_keeps_what_a_newer_version_wrote_into_it() -> None:
    text = job_record().model_dump_json().replace("{", '{"newer":[1,2],', 1)
    again = advance(type(job_record()).model_validate_json(text), JobState.LAUNCHING, at=at(1))
    assert '"newer":[1,2]' in again.model_dump_json()


def test_a_retry_opens_what_failed_or_was_cancelled_in_batches_that_ended_as_they_should() -> None:
    assert {BatchState.COMPLETED, BatchState.CANCELLED} == REOPENED_BATCHES  # a failed one has no jobs to run again
    assert {ImageState.FAILED, ImageState.CANCELLED} == REOPENED_IMAGES
