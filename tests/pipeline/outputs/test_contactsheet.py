"""Contact sheets: every image in its cell, on as many pages as it takes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.outputs.contactsheet import contact_sheets
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import image_result, resolved_row

COLOURS = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#00ffff", "#ff00ff", "#808080"]


def _images(count: int, custom_id: str = "row") -> list[ImageResult]:
    return [image_result(ImageTask(resolved_row(row, custom_id=custom_id), 0)) for row in range(count)]


def _square(result: ImageResult, size: tuple[int, int] = (256, 256)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[result.row % 7]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("count", "columns", "rows", "pages"), [(7, 3, 2, 2), (6, 3, 2, 1), (1, 6, 8, 1), (5, 1, 1, 5)]
)
def test_every_image_is_in_its_cell(tmp_path: Path, count: int, columns: int, rows: int, pages: int) -> None:
    paths = list(contact_sheets(_images(count), _square, tmp_path / "x" / "sheet.png", columns=columns, rows=rows))
    assert [path.name for path in paths] == ["sheet.png", *(f"sheet-{page:03d}.png" for page in range(2, pages + 1))]
    for row in range(count):
        page, cell = divmod(row, columns * rows)
        with Image.open(paths[page]) as sheet:
            middle = (12 + cell % columns * 268 + 128, 12 + cell // columns * 308 + 128)
            red, green, blue = sheet.getpixel(middle)  # type: ignore[misc]  # RGB
        assert f"#{red:02x}{green:02x}{blue:02x}" == COLOURS[row]


def test_a_caption_is_written_and_stays_in_its_cell(tmp_path: Path) -> None:
    images = _images(1, custom_id="W" * 150 + "日本")
    [path] = contact_sheets(images, _square, tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        caption = sheet.convert("L").crop((0, 268, sheet.width, sheet.height)).point(lambda grey: 255 - grey)
        box = caption.getbbox()
    assert box is not None
    assert (box[0] >= 12, box[2] <= 12 + 256 + 2, box[3] > box[1] + 14) == (True, True, True)


def test_images_of_any_shape_fit(tmp_path: Path) -> None:
    shapes = iter([(320, 20), (20, 320)])
    fetched = [_square(result, next(shapes)) for result in _images(2)]
    [path] = contact_sheets(_images(2), lambda result: fetched[result.row], tmp_path / "sheet.jpg")
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (2 * 268 + 12, 308 + 12))


@pytest.mark.parametrize(
    ("output", "grid", "message"),
    [
        ("sheet.gif", (6, 8), "a name that ends in .png, .jpg, .jpeg, .webp wanted"),
        ("sheet.png", (0, 8), "0 x 8 images on a page wanted"),
        ("sheet.png", (100, 100), "at most 400 possible"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, output: str, grid: tuple[int, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        list(contact_sheets(_images(1), _square, tmp_path / output, columns=grid[0], rows=grid[1]))


def test_without_an_image_there_is_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no image is there yet"):
        list(contact_sheets([], _square, tmp_path / "sheet.png"))
    assert not list(tmp_path.iterdir())
