"""The size of a picture from what is given of it: two sides, one side, an aspect, a number of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNIT_PX = 8  # a latent pixel: such sizes need no cropping
MAX_WEBP_PX, MAX_WEBP_MEGAPIXELS = 16_383, 178  # of the format, and what Pillow, and so most programs, read of it


@dataclass(frozen=True)
class GivenSize:
    """The part of the size that one level gives: a row, or its batch."""

    width: int | None = None
    height: int | None = None
    aspect: float | None = None
    megapixels: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> GivenSize:
        """From a row's or a batch's fields."""
        if size := given.get("size"):
            return cls(*size)
        return cls(given.get("width"), given.get("height"), given.get("aspect"), given.get("megapixels"))


def size(row: GivenSize, batch: GivenSize, native_px: int) -> tuple[int, int]:
    """Width and height in pixels.

    The row wins, and the batch completes it: a side with the other side or the aspect, an aspect with the side or else
    with the number of pixels, a number of pixels with the aspect. What neither gives is the model's native size. Sides
    that follow from an aspect are the nearest multiples of 8.
    """
    if row == GivenSize():
        row, batch = batch, GivenSize()
    if row.aspect is not None:
        return _shaped(row, batch, row.aspect, native_px)
    if row.width is not None or row.height is not None:
        completed = GivenSize(row.width or batch.width, row.height or batch.height)
        if batch.aspect is not None and not (completed.width and completed.height):
            return _shaped(completed, GivenSize(), batch.aspect, native_px)
        return completed.width or native_px, completed.height or native_px
    if row.megapixels is not None:
        sides = batch.width / batch.height if batch.width and batch.height else 1.0
        return _shaped(row, GivenSize(), batch.aspect or sides, native_px)
    return native_px, native_px


def _shaped(row: GivenSize, batch: GivenSize, aspect: float, native_px: int) -> tuple[int, int]:
    if row.megapixels is None:
        one_side = row if row.width or row.height else batch
        if one_side.width and not one_side.height:
            return one_side.width, _rounded(one_side.width / aspect)
        if one_side.height and not one_side.width:
            return _rounded(one_side.height * aspect), one_side.height
    of_batch = batch.width * batch.height if batch.width and batch.height else native_px**2
    pixels = (row.megapixels or batch.megapixels or of_batch / 1e6) * 1e6
    return _rounded(math.sqrt(pixels * aspect)), _rounded(math.sqrt(pixels / aspect))


def _rounded(side: float) -> int:
    return max(UNIT_PX, round(side / UNIT_PX) * UNIT_PX)


def check_webp(width: int, height: int) -> None:
    """Raises ValueError with (field, message) for a picture that WebP does not hold, or that hardly anybody reads."""
    if (longest_px := max(width, height)) > MAX_WEBP_PX:
        raise ValueError("format", f"webp found for a side of {longest_px} pixels; it holds up to {MAX_WEBP_PX}")
    if width * height > MAX_WEBP_MEGAPIXELS * 1e6:
        raise ValueError(
            "format",
            f"webp found for {width * height / 1e6:.0f} megapixels; programs read up to {MAX_WEBP_MEGAPIXELS} of it. "
            "png or jpeg wanted",
        )
