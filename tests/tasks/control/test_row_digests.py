"""The digests by which `--only-new` tells rows: what is not as it was written fails the firing, and renders nothing."""

from __future__ import annotations

import pytest

from pipeline.operations import schedules
from pipeline.records.schedules.schedule import changed
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from tasks.control.fire import fire
from tests.tasks.control.test_schedules import again, schedule
from tests.tasks.stage import Stage


def _first_digests(stage: Stage) -> tuple[str, bytes]:
    """Where the digests of the rows of a first firing lie, and what they are."""
    schedule(stage, only_new=True, overlap="allow")
    fire(stage.worker, "nightly")
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    assert record.rows_key is not None
    return record.rows_key, stage.artifacts.get(record.rows_key) or b""


@pytest.mark.parametrize(
    ("kept", "of_an_earlier_version"),
    [(0, False), (8, False), (16, False), (32, False), (47, False), (0, True), (8, True), (47, True)],
)
def test_digests_that_were_cut_are_not_taken_for_all(stage: Stage, kept: int, of_an_earlier_version: bool) -> None:
    key, body = _first_digests(stage)
    if of_an_earlier_version:
        key = _under_a_key_of_an_earlier_version(stage)
    stage.artifacts.put(key, body[:kept], content_type="application/octet-stream")
    failed = again(stage)
    assert failed.outcome == "failed"
    assert failed.reason == (
        f"{key} is damaged, so that nobody knows which rows are new; "
        "`tessera schedule run-now nightly --all` renders all of them and begins anew"
    )
    schedules.run_now(stage.ledger, "nightly", everything=True)
    fire(stage.worker, "nightly")
    assert again(stage).outcome == "skipped"


def _under_a_key_of_an_earlier_version(stage: Stage) -> str:
    """The schedule's record names a key without a SHA-256."""
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    key = ScheduleObjects("nightly").rows(record.open[-1], "0123abcd")
    stage.ledger.schedules.write(changed(record, at=stage.ledger.now(), rows_key=key))
    return key


def test_digests_that_an_earlier_version_wrote_are_read_and_those_in_disorder_are_not(stage: Stage) -> None:
    _, body = _first_digests(stage)
    key = _under_a_key_of_an_earlier_version(stage)
    stage.artifacts.put(key, body[16:] + body[:16], content_type="application/octet-stream")
    assert again(stage).outcome == "failed"
    stage.artifacts.put(key, body, content_type="application/octet-stream")
    assert again(stage).outcome == "skipped"
