"""Contact sheets: the thumbnails of a batch on pages, with the name of each image below it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.bucket.opened import UNREADABLE, opened
from pipeline.errors import RequestError
from pipeline.process.files import whole_file
from pipeline.process.saved import writing
from pipeline.records.results import ImageResult

CELL_PX = 256
MOST_CELLS = 400  # of one page: 26 megapixels
MOST_PX = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}  # a side of what a format's encoder takes

_MARGIN_PX, _CAPTION_PX, _FONT_PX = 12, 40, 14
_PARALLEL = 8
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

Fetch = Callable[[ImageResult], bytes | None]


def contact_sheets(
    images: Iterable[ImageResult], fetch: Fetch, output: Path, *, columns: int = 6, rows: int = 8
) -> Iterator[Path]:
    """Write a page for every `columns` x `rows` images: sheet.png, sheet-002.png and so on; yields each when written.

    Args:
        images: in the order of the cells; streamed, one page at a time.
        fetch: the bytes of an image's thumbnail, or of the image itself; None if they are gone.
        output: file of the first page; its suffix says the format.

    An image that cannot be read is a cell that says so. Raises RequestError for a suffix or a grid that is not
    possible, if a page cannot be written, and if there is no image.
    """
    kind = _FORMATS.get(output.suffix.lower())
    if kind is None:
        raise RequestError(f"{output.name}: a name that ends in {', '.join(_FORMATS)} wanted")
    if columns < 1 or rows < 1 or columns * rows > MOST_CELLS:
        raise RequestError(f"{columns} x {rows} images on a page wanted; at most {MOST_CELLS} possible")
    pages = itertools.count(1)
    rest = iter(images)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        while page := list(itertools.islice(rest, columns * rows)):
            number = next(pages)
            sheet = _sheet(page, pool.map(partial(_small, fetch), page), columns)
            if max(sheet.size) > MOST_PX[kind]:
                grid, size = f"{columns} x {rows} images on a page", f"{sheet.width}x{sheet.height} pixels"
                raise RequestError(f"{grid} wanted: {size}; a {kind} has at most {MOST_PX[kind]:,} a side")
            path = output if number == 1 else output.with_stem(f"{output.stem}-{number:03d}")
            with writing(path), whole_file(path) as file:
                sheet.save(file, kind)
            yield path
    if next(pages) == 1:
        raise RequestError("no image is there yet, so there is nothing to put on a sheet")


def _small(fetch: Fetch, result: ImageResult) -> Image.Image | None:
    """The image as large as its cell; None if it cannot be read."""
    body = fetch(result)
    if body is None:
        return None
    try:
        with opened(body) as image:
            # Averaging whole pixels first, where an image stands for its thumbnail; the filter still sees two for one.
            colours = image if image.mode == "RGB" else image.convert("RGB")
            small = colours.reduce(max(1, max(image.size) // (2 * CELL_PX)))
    except UNREADABLE:
        return None
    small.thumbnail((CELL_PX, CELL_PX))
    return small


def _sheet(page: Sequence[ImageResult], pictures: Iterable[Image.Image | None], columns: int) -> Image.Image:
    columns = min(columns, len(page))
    step, line = CELL_PX + _MARGIN_PX, CELL_PX + _CAPTION_PX + _MARGIN_PX
    size = (columns * step + _MARGIN_PX, -(-len(page) // columns) * line + _MARGIN_PX)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    for at, (result, small) in enumerate(zip(page, pictures, strict=True)):
        left, top = _MARGIN_PX + at % columns * step, _MARGIN_PX + at // columns * line
        if small is None:
            draw.text((left, top + CELL_PX // 2), "gone or damaged", fill="red", font=font)
        else:
            sheet.paste(small, (left + (CELL_PX - small.width) // 2, top + (CELL_PX - small.height) // 2))
        for below, text in enumerate((result.custom_id, f"seed {result.seed}")):
            where = (left, top + CELL_PX + 2 + below * (_FONT_PX + 4))
            draw.text(where, _fitting(text, font), fill="black", font=font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut off before it would reach into the next cell."""
    text = " ".join(text[:200].split())
    if font.getlength(text) <= CELL_PX:
        return text
    while text and font.getlength(text + "…") > CELL_PX:
        text = text[:-1]
    return text + "…"
