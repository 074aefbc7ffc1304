"""What the marker of a batch says, and what those of earlier versions said."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import RecordTooNew
from pipeline.records.end_marker import EndMarker, FileDigest, Vouched, read_marker
from pipeline.states import BatchState

FILE = FileDigest(sha256="0" * 64, size_bytes=3)
VOUCHED = Vouched(
    images=9, succeeded=5, failed=2, cancelled=1, jobs=3, input_sha256="1" * 64, results=FILE, errors=FILE
)
WRONG = [{"jobs": 1_000_000}, {"jobs": -1}, {"succeeded": 7}, {"failed": -1}, {"images": 2**40}]


def test_it_is_read_as_it_was_written_and_says_what_is_not_known() -> None:
    marker = EndMarker(state=BatchState.FAILED, reason="gone", vouched=VOUCHED)
    assert read_marker(marker.to_bytes(), BatchState.FAILED, what="k") == marker
    assert VOUCHED.unknown == 1


@pytest.mark.parametrize(
    ("body", "state", "reason"),
    [
        (b"", BatchState.COMPLETED, None),
        (b"", BatchState.CANCELLED, None),
        (b"input.jsonl is not what was accepted", BatchState.FAILED, "input.jsonl is not what was accepted"),
        (b"out of memory\n", BatchState.FAILED, "out of memory"),
    ],
)
def test_that_of_an_earlier_version_vouches_for_nothing(body: bytes, state: BatchState, reason: str | None) -> None:
    assert read_marker(body, state, what="k") == EndMarker(state=state, reason=reason)


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b"\xff", BatchState.COMPLETED),
        (b'{"schema_version": 1}', BatchState.CANCELLED),
        (b'{"schema_version": 1, "state": "fai', BatchState.FAILED),
        (bytes(64), BatchState.FAILED),
        (EndMarker(state=BatchState.CANCELLED).to_bytes(), BatchState.COMPLETED),
    ],
)
def test_one_that_is_none_is_damaged_and_says_nothing(body: bytes, state: BatchState) -> None:
    marker = read_marker(body, state, what="k")
    assert marker == EndMarker(state=state, damaged=True)
    assert b"damaged" not in marker.to_bytes()


def test_that_of_a_later_version_is_refused() -> None:
    with pytest.raises(RecordTooNew):
        read_marker(b'{"schema_version": 9, "state": "completed"}', BatchState.COMPLETED, what="k")


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_one_that_vouches_for_more_jobs_or_outcomes_than_images_is_damaged(wrong: dict[str, int]) -> None:
    vouched = json.loads(VOUCHED.model_dump_json()) | wrong
    body = json.dumps({"schema_version": 1, "state": "completed", "vouched": vouched}).encode()
    assert read_marker(body, BatchState.COMPLETED, what="k").damaged
