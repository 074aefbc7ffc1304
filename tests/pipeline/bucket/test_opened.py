"""Files of ours that are larger than what Pillow opens by itself."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.bucket.imagefile import is_whole, record_in
from pipeline.bucket.opened import opened
from pipeline.client.image import ImageInMemory
from pipeline.outputs.comparison import likeness
from pipeline.outputs.contactsheet import contact_sheets
from pipeline.outputs.download import _made_small
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import image_result, resolved_row

SIDES = (16_000, 12_500)  # 200 megapixels: Pillow's own limit is 179


def _chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _one_colour(width: int, height: int, result: ImageResult | None = None) -> bytes:
    """A grey PNG with the record of a result, made row by row."""
    squeeze, row = zlib.compressobj(1), b"\0" + b"\x80" * (width)
    packed = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    text = b"" if result is None else _chunk(b"iTXt", b"tessera\0\0\0\0\0" + result.model_dump_json().encode())
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + text + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def large() -> tuple[ImageResult, bytes]:
    result = image_result(ImageTask(resolved_row(width=SIDES[0], height=SIDES[1]), 0))
    return result, _one_colour(*SIDES, result)


def test_a_picture_of_200_megapixels_is_whole_and_carries_its_record(large: tuple[ImageResult, bytes]) -> None:
    result, body = large
    assert is_whole(body, *SIDES)
    assert record_in(body) == result


def test_it_gets_a_thumbnail_and_a_cell_of_a_contact_sheet(large: tuple[ImageResult, bytes], tmp_path: Path) -> None:
    result, body = large
    small = _made_small(body, "a.png")
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (320, 250)
    [sheet] = contact_sheets([result], lambda _: body, tmp_path / "sheet.png")
    with Image.open(sheet) as page:
        assert page.getpixel((140, 140)) == (128, 128, 128)


def test_it_is_compared_with_another_render_and_opened_for_pillow(large: tuple[ImageResult, bytes]) -> None:
    result, body = large
    alike = likeness(body, body)
    assert alike is not None
    assert alike.same
    assert ImageInMemory(result, body).open().size == SIDES


def test_a_notebook_is_shown_less_than_16000_pixels() -> None:
    result = image_result(ImageTask(resolved_row(width=9_000, height=64), 0))
    with Image.open(io.BytesIO(ImageInMemory(result, _one_colour(9_000, 64))._repr_png_())) as shown:
        assert shown.size == (3_000, 22)


def test_what_is_larger_than_any_row_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValueError, match="16500x8 pixels found; sides of at most 16384 wanted"):
        opened(_one_colour(16_500, 8))
    with pytest.raises(UnidentifiedImageError):
        opened(b"GIF89a")
