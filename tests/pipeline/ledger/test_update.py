"""However many change a record at the same time, every change takes effect once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import StaleWrite, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.ledger.update import FIRST_PAUSE_S, LONGEST_PAUSE_S, MOST_TRIES, Updated, update
from pipeline.operations.schedules import run_now
from pipeline.records.batch import BatchRecord, advance, changed
from pipeline.records.schedules.schedule import ScheduleSpec, new_record
from pipeline.states import BatchState
from tests.factories import at, batch_record


def test_changes_that_are_made_at_the_same_time_all_take_effect(ledger: Ledger) -> None:
    ledger.batches.create(batch_record("b"))
    together = threading.Barrier(8)

    def add_rounds(_writer: int) -> None:
        together.wait()
        for _ in range(5):
            ledger.batches.update("b", lambda record: changed(record, at=at(1), round=record.round + 1))

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(add_rounds, range(8)))
    record = ledger.batches.get("b")
    assert (record.round, record.revision) == (40, 41)


def test_schedules_that_are_run_by_hand_at_the_same_time_keep_every_run(ledger: Ledger) -> None:
    spec = ScheduleSpec.model_validate({"cron": "0 0 * * *", "prompts": "s3://b/p.txt"})
    assert ledger.schedules.create(new_record("s", spec, at(0)))
    together = threading.Barrier(6)

    def run(_writer: int) -> str:
        together.wait()
        return run_now(ledger, "s")

    with ThreadPoolExecutor(6) as writers:
        firings = list(writers.map(run, range(6)))
    record = ledger.schedules.get("s")
    assert record is not None
    assert sorted(run.token for run in record.runs) == sorted(firing.rpartition("-")[2] for firing in firings)


def test_what_somebody_else_did_meanwhile_is_what_is_changed_next(ledger: Ledger) -> None:
    ledger.batches.create(batch_record("b"))
    seen: list[BatchState] = []

    def pause(record: BatchRecord) -> BatchRecord | None:
        seen.append(record.state)
        if len(seen) == 1:
            ledger.batches.write(advance(record, BatchState.CANCELLING, at=at(1)))
        return None if record.state is BatchState.CANCELLING else advance(record, BatchState.PAUSED, at=at(2))

    updated = ledger.batches.update("b", pause)
    assert seen == [BatchState.VALIDATING, BatchState.CANCELLING]
    assert updated == Updated(ledger.batches.get("b"), written=False)


def test_a_batch_that_there_is_not_cannot_be_changed(ledger: Ledger) -> None:
    with pytest.raises(UnknownBatch):
        ledger.batches.update("nothing", lambda record: record)


def test_tries_are_spaced_out_and_come_to_an_end() -> None:
    pauses: list[float] = []

    def write(_record: int) -> None:
        raise StaleWrite("somebody was faster")

    with pytest.raises(StaleWrite):
        update(lambda: 1, lambda record: record + 1, write, sleep=pauses.append, jitter=lambda: 1.0)
    assert len(pauses) == MOST_TRIES - 1
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert max(pauses) == LONGEST_PAUSE_S
