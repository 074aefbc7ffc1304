"""Times in S3's answers are read as botocore reads them, and faster."""

from __future__ import annotations

import pytest
from botocore.utils import parse_timestamp

from pipeline.bucket.s3 import time_of


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T04:31:29.000Z",
        "2026-11-28T04:31:29Z",
        "2026-11-28T04:31:29+02:00",
        "Sat, 28 Nov 2026 04:31:29 GMT",
        "2026-11-28T04:31:29",
        "1795840289",
    ],
)
def test_each_form_that_stores_write_is_the_same_moment(text: str) -> None:
    assert time_of(text) == parse_timestamp(text)


def test_what_is_no_time_is_refused_as_before() -> None:
    with pytest.raises(ValueError, match="Invalid timestamp"):
        time_of("yesterday or so")
