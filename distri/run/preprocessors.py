"""What is made of a picture before a control network sees it: light and local, and equal wherever it is computed.

Sources: Canny 1986 for edges, with the 3x3 Sobel operators, L1 gradients and thresholds 100 and 200 that ControlNets
for edges are commonly given; whatever else a network wants, a user brings as a map.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from distri.model.image import Pixels
from pipeline.input_picture import Preprocess

LOW, HIGH = 100, 200  # gradients of 8-bit levels: an edge goes on from the low one where it has the high one somewhere
BLUR_SHARE = 1 / 64  # standard deviation of the blur, by the shorter side
TILE = 8  # by how much a tile is made smaller, and larger again

Levels = npt.NDArray[np.int32]


def preprocessed(pixels: Pixels, how: Preprocess) -> Pixels:
    """The picture that a control network sees: uint8, height x width x 3, as `pixels` are."""
    return _BY_NAME[how](pixels)


def canny(pixels: Pixels) -> Pixels:
    """Edges, white on black."""
    strong = _hysteresis(gradients(pixels))
    return np.repeat(np.where(strong, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def gradients(pixels: Pixels) -> Levels:
    """How steep a picture is, height x width, where it is steepest along its own direction, else 0."""
    grey_HW = _grey(pixels).astype(np.int32)
    around = np.pad(grey_HW, 1, mode="edge")
    rows, columns = grey_HW.shape

    def at(down: int, right: int) -> Levels:
        part: Levels = around[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
        return part

    across = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1)
    down = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1)
    return _thinned(across, down)


def grey(pixels: Pixels) -> Pixels:
    """Without colours, by the luminance of ITU-R BT.601."""
    return np.repeat(_grey(pixels)[..., None], 3, axis=2)


def blur(pixels: Pixels) -> Pixels:
    """Without details: by a Gaussian whose width follows from the picture's size."""
    radius = max(1.0, min(pixels.shape[:2]) * BLUR_SHARE)
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)), np.uint8)


def tile(pixels: Pixels) -> Pixels:
    """By way of an eighth of its size."""
    height, width = pixels.shape[:2]
    small = max(1, width // TILE), max(1, height // TILE)
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def _grey(pixels: Pixels) -> Pixels:
    return np.array(Image.fromarray(pixels).convert("L"), np.uint8)


def _thinned(across: Levels, down: Levels) -> Levels:
    """Magnitudes of gradients where they are largest along their own direction, else 0."""
    magnitude: Levels = np.abs(across) + np.abs(down)
    padded = np.pad(magnitude, 1)
    rows, columns = magnitude.shape

    def at(y: int, x: int) -> Levels:
        part: Levels = padded[1 + y : 1 + y + rows, 1 + x : 1 + x + columns]
        return part

    steep, flat = np.tan(np.pi / 8) * np.abs(across), np.tan(np.pi / 8) * np.abs(down)
    horizontal, vertical = np.abs(down) < steep, np.abs(across) < flat
    rising = (across < 0) != (down < 0)
    before = np.select([horizontal, vertical, rising], [at(0, -1), at(-1, 0), at(-1, 1)], at(-1, -1))
    after = np.select([horizontal, vertical, rising], [at(0, 1), at(1, 0), at(1, -1)], at(1, 1))
    # Of two that are equal one stays.
    return np.where((magnitude > before) & (magnitude >= after), magnitude, 0)


def _hysteresis(magnitude: Levels) -> npt.NDArray[np.bool_]:
    """What is above the high threshold, and all above the low one that touches it, directly or by others."""
    weak = magnitude > LOW
    found = magnitude > HIGH
    fresh = found
    while fresh.any():
        around = np.pad(fresh, 1)
        grown = np.zeros_like(found)
        for y in range(3):
            for x in range(3):
                grown |= around[y : y + found.shape[0], x : x + found.shape[1]]
        fresh = grown & weak & ~found
        found = found | fresh
    return found


_BY_NAME: dict[Preprocess, Callable[[Pixels], Pixels]] = {
    Preprocess.NONE: lambda pixels: pixels,
    Preprocess.CANNY: canny,
    Preprocess.GREY: grey,
    Preprocess.BLUR: blur,
    Preprocess.TILE: tile,
}
