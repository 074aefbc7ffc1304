"""Spans and the stopwatch."""

from collections.abc import Iterator

import pytest

from distri.ranks.spans import Spans, Stopwatch


def test_a_block_is_noted_with_what_it_is_about_also_if_it_raises() -> None:
    spans = Spans()
    with spans.about(image="7"):
        with pytest.raises(ZeroDivisionError), spans.span("load", size=3) as detail:
            detail["found"] = 1 / 0
        with spans.span("file", track="files"):
            pass
    with spans.span("meet"):
        pass
    load, file, meet = spans
    assert load.detail == {"image": "7", "size": 3}
    assert load.start_ns <= load.end_ns <= file.start_ns
    assert (file.track, file.detail) == ("files", {})
    assert meet.detail == {}


def test_the_oldest_spans_are_forgotten_and_counted() -> None:
    spans = Spans(limit=2)
    for number in range(5):
        spans.add(str(number), 0, 1)
    assert [span.name for span in spans] == ["3", "4"]
    assert spans.forgotten == 3


def test_laps_follow_each_other_and_add_up_by_name() -> None:
    clock: Iterator[int] = iter([0, 2_000_000_000, 5_000_000_000, 6_000_000_000])
    spans = Spans()
    watch = Stopwatch(spans, lambda: next(clock))
    for name in ("denoise", "decode", "denoise"):
        watch.lap(name)
    assert watch.seconds == {"denoise": 3.0, "decode": 3.0}
    assert [(span.start_ns, span.end_ns) for span in spans] == [
        (0, 2_000_000_000),
        (2_000_000_000, 5_000_000_000),
        (5_000_000_000, 6_000_000_000),
    ]
