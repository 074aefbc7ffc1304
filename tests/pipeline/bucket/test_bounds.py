"""No object fills memory: what is larger than its kind may be is read no further."""

from __future__ import annotations

import io
import tracemalloc

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.bodies import read_at_most, split_lines
from pipeline.errors import RecordUnreadable
from pipeline.picture import Format
from pipeline.records.object_keys import BatchObjects
from pipeline.records.object_sizes import (
    LINES_BYTES,
    RECORD_BYTES,
    THUMBNAIL_BYTES,
    TRACE_BYTES,
    largest,
    largest_image,
)
from pipeline.records.schedules.schedule_keys import ScheduleObjects

OBJECTS = BatchObjects("images")  # an id like a folder's name


@pytest.mark.parametrize(
    ("key", "most"),
    [
        (OBJECTS.manifest, RECORD_BYTES),
        (OBJECTS.plan, RECORD_BYTES),
        (OBJECTS.root + "_FAILED", RECORD_BYTES),
        (OBJECTS.sidecar(0, 0), RECORD_BYTES),
        (OBJECTS.failure(0, 0), RECORD_BYTES),
        (OBJECTS.trace(0, 1), TRACE_BYTES),
        (OBJECTS.thumbnail(0, 0), THUMBNAIL_BYTES),
        (OBJECTS.image(0, 0, Format.PNG), largest_image(16_384, 16_384)),
        (OBJECTS.shard(0), LINES_BYTES),
        (OBJECTS.fragment(0), LINES_BYTES),
        (ScheduleObjects("images").record, RECORD_BYTES),
        (ScheduleObjects("images").firing("f"), RECORD_BYTES),
        (ScheduleObjects("images").rows("f", "t"), LINES_BYTES),
    ],
)
def test_each_kind_of_object_has_a_bound(key: str, most: int) -> None:
    assert largest(key) == most


class Endless(io.RawIOBase):
    """A body that never ends, and counts what was read of it."""

    taken = 0

    def read(self, amt: int = -1) -> bytes:
        assert amt >= 0
        self.taken += amt
        return b"0" * amt


def test_a_body_without_end_is_read_a_byte_too_far_and_closed() -> None:
    body = Endless()
    with pytest.raises(RecordUnreadable, match=r"b/c cannot be read.*more than 1,000 bytes found, at most 1,000"):
        read_at_most(body, 1000, what="b/c")
    assert (body.taken, body.closed) == (1001, True)
    assert read_at_most(io.BytesIO(b"1234"), 4, what="x") == b"1234"
    assert read_at_most(io.BytesIO(b""), 0, what="x") == b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    "text", [b"", b"\n", b"a", b"a\n", b"\n\na\n\n", b"ab\nabcd\nabcde\n" + b"x" * 50 + b"\nab\r\nz"]
)
def test_lines_are_split_whatever_the_chunks_and_long_ones_cut_off(text: bytes, size: int) -> None:
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    whole = text.split(b"\n")[:-1] if text.endswith(b"\n") or not text else text.split(b"\n")
    assert list(split_lines(chunks, 4)) == [line[:4] for line in whole]


def test_a_line_without_end_takes_the_memory_of_the_longest() -> None:
    tracemalloc.start()
    try:
        lines = list(split_lines((b"0" * (1 << 20) for _ in range(300)), 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(line) for line in lines] == [1 << 20]
    assert peak < 16 << 20


def test_an_object_that_is_too_large_is_unreadable_and_the_store_answers_on(artifacts: Artifacts) -> None:
    key = OBJECTS.sidecar(0, 0)
    artifacts.put(key, io.BytesIO(b" " * (RECORD_BYTES + 1)), content_type="application/json")
    with pytest.raises(RecordUnreadable, match=r"0000000-000\.json cannot be read.*more than 4,194,304 bytes"):
        artifacts.get(key)
    assert artifacts.get(key, RECORD_BYTES + 1) is not None
    file = io.BytesIO()
    artifacts.copy_to(key, file, 10)
    assert len(file.getvalue()) == 11
    artifacts.put(key, b"{}", content_type="application/json")
    assert artifacts.get(key) == b"{}"
