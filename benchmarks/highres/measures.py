"""What is measured of a large picture besides what it shows: borders of windows, and fine detail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.adherence import Picture

QUARTERS = 4  # of a block, by which blocks begin later in some layers


def borders(side: int, window_px: int, quarters: float = 0) -> list[int]:
    """The last pixel before each border of blocks of windows (`distri.layers.windows`) along one side.

    `quarters`: of a block, by which they begin later. Half a quarter is a place where no layer has borders.
    """
    block = window_px // 2
    return [at - 1 for at in range(block + round(quarters * block / QUARTERS), side, block)]


def seam(picture: Picture, reference: Picture, at: Sequence[int]) -> float:
    """How much steeper a picture is across borders than elsewhere, across and down, beside the same of a reference."""
    return _steepness(picture, at) / _steepness(reference, at)


def detail(picture: Picture) -> float:
    """Root mean square, in levels of 255, of what a picture of half the sides does not show."""
    levels = picture.astype(np.float64)
    high, wide = (side // 2 * 2 for side in levels.shape[:2])
    quarters = levels[:high, :wide].reshape(high // 2, 2, wide // 2, 2, -1)
    return float(np.sqrt(np.square(quarters - quarters.mean(axis=(1, 3), keepdims=True)).mean()))


def _steepness(picture: Picture, at: Sequence[int]) -> float:
    ratios = []
    for along in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float64), axis=along)).mean(axis=(1 - along, 2))
        # Half a level of 255 on both sides keeps flat pictures from dividing by nothing.
        ratios.append((steps[list(at)].mean() + 0.5) / (np.delete(steps, at).mean() + 0.5))
    return float(np.mean(ratios))
