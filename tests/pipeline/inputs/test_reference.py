"""What a row may say of where a picture lies."""

from __future__ import annotations

import pytest

from pipeline.inputs.reference import InBucket, OfBatch, OfInput, OfUpload, OnDisk, Reference, parsed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("photos/cat.png", OnDisk("photos/cat.png")),
        ("C:\\photos\\cat.png", OnDisk("C:\\photos\\cat.png")),
        ("~/cat 1.png", OnDisk("~/cat 1.png")),
        ("s3://studio/cat.png", InBucket("s3://studio/cat.png")),
        ("batch://night-1/hero", OfBatch("night-1", "hero", 0)),
        ("batch://night-1/a/b#c#3", OfBatch("night-1", "a/b#c", 3)),
        ("upload://file-0a1", OfUpload("file-0a1")),
        (f"input://night-1/{'a' * 64}", OfInput("night-1", "a" * 64)),
    ],
)
def test_places(text: str, wanted: Reference) -> None:
    assert parsed(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.org/cat.png", "not fetched; download it"),
        ("data:image/png;base64,AAAA", "a data: URL found"),
        ("ftp://example.org/cat.png", "a path, upload://ID, s3://BUCKET/KEY or batch://"),
        ("upload://a/b", "a path, upload://ID"),
        ("batch://night-1", "a path, upload://ID, s3://BUCKET/KEY or batch://"),
        ("", "an empty"),
        ("a\nb", "unprintable"),
        ("a" * 2000, "2000 characters"),
    ],
)
def test_what_is_no_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(text)
