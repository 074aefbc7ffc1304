"""Spans of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.errors import RequestError
from pipeline.process.durations import parsed_duration


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30d", timedelta(days=30)),
        ("1h30m", timedelta(minutes=90)),
        ("45s", timedelta(seconds=45)),
        ("2w", timedelta(days=14)),
        ("0.5d", timedelta(hours=12)),
    ],
)
def test_a_span_is_the_sum_of_its_parts(text: str, span: timedelta) -> None:
    assert parsed_duration(text) == span


@pytest.mark.parametrize(
    "text", ["", "30", "d", "30 d", "-1d", "0d", "1h 30m", "1y", "1d!", "0s", "36526d", "9" * 30 + "w"]
)
def test_what_is_no_span_is_refused_with_examples(text: str) -> None:
    with pytest.raises(RequestError, match="wanted"):
        parsed_duration(text)
