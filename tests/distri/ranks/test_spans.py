"""Spans and the stopwatch."""

import pytest

from distri.ranks.spans import Spans


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
