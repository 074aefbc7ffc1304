"""Batches in the ledger."""

from __future__ import annotations

import time

import pytest

from pipeline.deployment.settings import Settings
from pipeline.errors import StaleWrite, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.ledger.keys import EVENTS_KEPT
from pipeline.operations.cancel import request_cancel
from pipeline.operations.status import batch_status
from pipeline.records.batch import advance, changed
from pipeline.states import BatchState, ImageState, JobState
from tests.factories import INCARNATION, at, batch_record


def test_a_batch_is_created_once_and_a_second_creation_changes_nothing(ledger: Ledger) -> None:
    assert ledger.batches.create(batch_record(images=4))
    assert not ledger.batches.create(batch_record(images=9, tenant="another"))
    assert ledger.batches.get("b") == batch_record(images=4)
    assert ledger.batches.counts("b").images[ImageState.QUEUED] == 4
    assert [event.state for event in ledger.batches.events("b", after="0", wait_s=0.01)] == ["validating"]


def test_a_write_stands_only_if_nobody_was_faster(ledger: Ledger) -> None:
    ledger.batches.create(batch_record())
    read = ledger.batches.get("b")
    ledger.batches.write(advance(read, BatchState.IN_PROGRESS, at=at(1), jobs=2))
    with pytest.raises(StaleWrite, match="batch b has moved on from revision 1"):
        ledger.batches.write(advance(read, BatchState.CANCELLING, at=at(2)))
    assert ledger.batches.state("b") is BatchState.IN_PROGRESS
    assert ledger.batches.get("b").jobs == 2


def test_an_unknown_batch_is_an_error_and_never_a_state(ledger: Ledger) -> None:
    for ask in (ledger.batches.get, ledger.batches.state):
        with pytest.raises(UnknownBatch, match="no batch 'x': `tessera list`"):
            ask("x")
    assert not ledger.batches.known("x")
    with pytest.raises(UnknownBatch):
        batch_status(ledger, "x")


def test_counts_name_every_state(ledger: Ledger) -> None:
    ledger.batches.create(batch_record(images=3))
    counts = ledger.batches.counts("b")
    assert counts.images == dict.fromkeys(ImageState, 0) | {ImageState.QUEUED: 3}
    assert counts.jobs == dict.fromkeys(JobState, 0)


def test_final_batches_are_listed_but_no_longer_looked_after(ledger: Ledger) -> None:
    for number, name in enumerate(("first", "second", "third")):
        ledger.batches.create(batch_record(name, created_at=at(number)))
    ledger.batches.write(advance(ledger.batches.get("second"), BatchState.FAILED, at=at(5), reason="why"))
    assert ledger.batches.unfinished() == ["first", "third"]
    assert ledger.batches.newest(2) == ["third", "second"]
    assert batch_status(ledger, "second").reason == "why"


def test_events_come_in_order_and_old_ones_are_dropped(ledger: Ledger) -> None:
    ledger.batches.create(batch_record(images=3000))
    ledger.images.move_by_worker("b", "b/00000", range(3000), ImageState.SUCCEEDED, incarnation=INCARNATION, fence="")
    kept = ledger.batches.events("b", after="0", wait_s=0.01)
    assert EVENTS_KEPT <= len(kept) < EVENTS_KEPT + 200
    assert [event.name for event in kept] == [str(index) for index in range(3000 - len(kept), 3000)]
    assert {(event.what, event.state) for event in kept} == {("image", "succeeded")}
    assert ledger.batches.events("b", after=kept[-2].id, wait_s=0.01) == kept[-1:]


@pytest.mark.parametrize("wait_s", [0.0, 0.0004, 0.05])
def test_waiting_for_events_ends_when_it_should(ledger: Ledger, wait_s: float) -> None:
    """Redis takes a wait of 0 ms for one without an end."""
    ledger.batches.create(batch_record())
    began = time.monotonic()
    assert ledger.batches.events("b", after="$", wait_s=wait_s) == []
    assert time.monotonic() - began < 30


def test_a_wait_is_answered_by_the_first_event(ledger: Ledger) -> None:
    ledger.batches.create(batch_record())
    seen = ledger.batches.events("b", after="0", wait_s=0.01)
    request_cancel(ledger, "b")
    news = ledger.batches.events("b", after=seen[-1].id, wait_s=30)
    assert [(event.what, event.name, event.state) for event in news] == [("batch", "b", "cancelling")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([], BatchState.CANCELLING),
        ([BatchState.IN_PROGRESS], BatchState.CANCELLING),
        ([BatchState.IN_PROGRESS, BatchState.PAUSED], BatchState.CANCELLING),
        ([BatchState.CANCELLING], BatchState.CANCELLING),
        ([BatchState.IN_PROGRESS, BatchState.FINALIZING], BatchState.FINALIZING),
        ([BatchState.IN_PROGRESS, BatchState.FINALIZING, BatchState.COMPLETED], BatchState.COMPLETED),
        ([BatchState.FAILED], BatchState.FAILED),
    ],
)
def test_cancelling_says_what_the_batch_is_now_and_moves_only_what_goes_on(
    ledger: Ledger, path: list[BatchState], expected: BatchState
) -> None:
    ledger.batches.create(batch_record())
    for state in path:
        ledger.batches.write(advance(ledger.batches.get("b"), state, at=at(1)))
    assert request_cancel(ledger, "b") is expected
    assert ledger.batches.state("b") is expected


def test_two_deployments_in_one_redis_do_not_see_each_other(ledger: Ledger, settings: Settings) -> None:
    other = Ledger(settings.model_copy(update={"redis_prefix": settings.redis_prefix + "-2"}))
    ledger.batches.create(batch_record())
    assert not other.batches.known("b")
    assert other.batches.unfinished() == []


def test_a_status_counts_images_and_exits_as_scripts_expect(ledger: Ledger) -> None:
    ledger.batches.create(batch_record(images=3))
    ledger.batches.write(advance(ledger.batches.get("b"), BatchState.IN_PROGRESS, at=at(1), jobs=1))
    ledger.images.move_by_worker("b", "b/00000", [0, 1], ImageState.SUCCEEDED, incarnation=INCARNATION, fence="")
    status = batch_status(ledger, "b")
    assert (status.total, status.done, status.succeeded, status.failed, status.finished) == (3, 2, 2, 0, False)
    ledger.images.move_by_worker("b", "b/00000", [2], ImageState.FAILED, incarnation=INCARNATION, fence="")
    for state in (BatchState.FINALIZING, BatchState.COMPLETED):
        ledger.batches.write(advance(ledger.batches.get("b"), state, at=at(61)))
    status = batch_status(ledger, "b")
    assert (status.done, status.failed, status.finished, status.exit_code, status.elapsed_s) == (3, 1, True, 3, 61)


def test_a_batch_of_which_nothing_came_exits_with_4(ledger: Ledger) -> None:
    ledger.batches.create(batch_record(images=1))
    ledger.batches.write(advance(ledger.batches.get("b"), BatchState.FAILED, at=at(1)))
    assert batch_status(ledger, "b").exit_code == 4


def test_a_change_without_a_move_is_written_too(ledger: Ledger) -> None:
    ledger.batches.create(batch_record())
    ledger.batches.write(changed(ledger.batches.get("b"), at=at(1), jobs=3))
    assert ledger.batches.get("b").jobs == 3
    assert ledger.batches.state("b") is BatchState.VALIDATING
