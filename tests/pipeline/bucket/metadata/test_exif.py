"""EXIF as other readers take it: the type of the comment, its codes, and what happens where there is no room."""

from __future__ import annotations

import piexif
import piexif.helper
import pytest

from pipeline.bucket.metadata.exif import exif


@pytest.mark.parametrize("comment", ["a harbour", 'ü "q" 日本 🌊\nSteps: 2', "x"])
@pytest.mark.parametrize("dpi", [72, 2400])
def test_piexif_reads_comment_and_resolution(comment: str, dpi: int) -> None:
    read = piexif.load(exif(dpi, comment))
    assert piexif.helper.UserComment.load(read["Exif"][piexif.ExifIFD.UserComment]) == comment
    image = read["0th"]
    assert (image[piexif.ImageIFD.XResolution], image[piexif.ImageIFD.YResolution]) == ((dpi, 1), (dpi, 1))
    assert image[piexif.ImageIFD.ResolutionUnit] == 2


def test_a_text_too_long_for_utf16_is_written_as_ascii_and_one_too_long_for_both_is_left_out() -> None:
    for count, found in ((1000, b"UNICODE\x00"), (3000, b"ASCII\x00\x00\x00"), (9000, None)):
        block = exif(300, "x" * count, most_bytes=4096)
        assert len(block) <= 4096
        comment = piexif.load(block)["Exif"].get(piexif.ExifIFD.UserComment)
        assert (comment and comment[:8]) == found
    assert piexif.load(exif(300, "日" * 3000, most_bytes=4096))["Exif"] == {}


def test_without_a_comment_there_is_a_resolution_alone() -> None:
    read = piexif.load(exif(300, None))
    assert (read["Exif"], len(read["0th"])) == ({}, 3)
