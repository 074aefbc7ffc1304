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


def test_an_image_that_cannot_be_read_is_a_cell_that_says_so(tmp_path: Path) -> None:
    bodies = [_square(_images(1)[0]), None, b"no picture", _square(_images(1)[0])]
    [path] = contact_sheets(_images(4), lambda result: bodies[result.row], tmp_path / "sheet.png", columns=4)
    with Image.open(path) as sheet:
        red = [sheet.getpixel((12 + cell * 268 + 250, 20)) == (255, 0, 0) for cell in range(4)]
    assert red == [True, False, False, True]


@pytest.mark.parametrize(("name", "count", "most"), [("sheet.webp", 54, "16,383"), ("sheet.jpg", 213, "65,500")])
def test_a_page_larger_than_its_format_is_refused_by_name(tmp_path: Path, name: str, count: int, most: str) -> None:
    small = _square(_images(1)[0], (8, 8))
    with pytest.raises(RequestError, match=rf"1 x 400 images .* has at most {most} a side"):
        list(contact_sheets(_images(count), lambda _: small, tmp_path / name, columns=1, rows=400))
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(RequestError, match=r"sheet\.png cannot be written: Is a directory"):
        list(contact_sheets(_images(1), _square, tmp_path / "sheet.png"))
