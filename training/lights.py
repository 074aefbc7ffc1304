"""Suns and moons in a picture: where the brightest disc stands, in what colour, and whether there is a second one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

GRID = 48  # cells of the longer side on which discs are looked for
RADII = (0.06, 0.095, 0.16)  # of a disc, in short sides
TOP, BOTTOM, MARGIN = 0.1, 0.42, 2  # rows, in heights, and columns left out on both sides, in which its middle may lie

# A second light stands out half as much as the first at least, has its colour (distance in levels of 255) and about
# its size; of 120 of the renderer's pictures, which have one, fewer than 5 in 100 have such a place.
ALIKE, SAME_COLOUR, SAME_SIZE = 0.5, 60, 2

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Light:
    """The disc that stands out most.

    Attributes:
        across: its middle, 0 to 1.
        colour: three levels of 255.
    """

    across: float
    colour: Numbers


@dataclass(frozen=True)
class _Discs:
    """How much a disc of one radius in cells stands out at every place where it may be, and its colour there."""

    radius: float
    columns: int
    score: npt.NDArray[np.float32]
    colour: npt.NDArray[np.float32]

    def away(self, row: int, column: int) -> npt.NDArray[np.float64]:
        """Cells from one place to all."""
        y, x = np.indices(self.score.shape)
        away: npt.NDArray[np.float64] = np.hypot(y - row, x - column)
        return away


def light(picture: npt.NDArray[np.uint8]) -> Light:
    """Where across a picture, height x width x 3, a disc of one colour stands out most in the upper part."""
    discs, row, column = _brightest(list(_discs(picture)))
    middle = (column + MARGIN + 0.5) / discs.columns
    return Light(float(middle), discs.colour[:, row, column].astype(np.float64))


def lights(picture: npt.NDArray[np.uint8]) -> int:
    """1, or 2 where another disc of the same colour and about the same size stands out as well: two suns."""
    found = list(_discs(picture))
    first, row, column = _brightest(found)
    colour, least = first.colour[:, row, column, None, None], ALIKE * first.score[row, column]
    for discs in found:
        if not 1 / SAME_SIZE <= discs.radius / first.radius <= SAME_SIZE:
            continue
        elsewhere = discs.away(row, column) > 2 * max(first.radius, discs.radius) + 2
        alike = np.linalg.norm(discs.colour - colour, axis=0) < SAME_COLOUR
        if (discs.score[elsewhere & alike] > least).any():
            return 2
    return 1


def sky_colours(levels: npt.NDArray[Any]) -> Numbers:
    """The sky's colour in every row, height x 3, as a straight line through the medians of the upper rows."""
    upper = np.median(levels[: int(0.3 * len(levels))], axis=1)
    rows = np.arange(len(levels))
    lines = [np.polyval(np.polyfit(rows[: len(upper)], upper[:, colour], 1), rows) for colour in range(3)]
    return np.stack(lines, axis=1)


def _brightest(found: list[_Discs]) -> tuple[_Discs, int, int]:
    best = max(found, key=lambda discs: discs.score.max())
    row, column = np.unravel_index(best.score.argmax(), best.score.shape)
    return best, int(row), int(column)


def _discs(picture: npt.NDArray[np.uint8]) -> Iterator[_Discs]:
    high, wide = picture.shape[:2]
    scale = GRID / max(high, wide)
    columns, rows = round(wide * scale), round(high * scale)
    small = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX), dtype=np.float32)
    planes = torch.from_numpy(np.concatenate([small, small**2, np.ones_like(small)], axis=2)).permute(2, 0, 1)[:, None]
    sky = sky_colours(small)
    where = slice(max(2, int(TOP * rows)), int(BOTTOM * rows)), slice(MARGIN, -MARGIN)
    for radius in RADII:
        r = radius * min(columns, rows)
        reach = int(2.3 * r + 3)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        away = np.hypot(y, x)
        disc = (away <= max(1.0, r - 0.7)) & (y <= 0.2 * r)  # what stands before it hides the lower part first
        ring = (away > 1.7 * r + 1) & (away <= 2.3 * r + 2) & (y <= 0)
        below = (y > 1.2 * r + 1) & (y <= 2 * r + 2) & (abs(x) <= 0.6 * r + 0.5)
        kernels = torch.from_numpy(np.stack([disc, ring, below]).astype(np.float32))[:, None]
        sums = functional.conv2d(planes, kernels, padding=reach).numpy()
        colour, square = sums[:3] / sums[6:].clip(1), sums[3:6] / sums[6:].clip(1)
        spread = np.sqrt((square - colour**2).clip(0)).mean(axis=0)
        contrast = np.linalg.norm(colour[:, 0] - colour[:, 1], axis=0)
        no_sky = np.linalg.norm(colour[:, 1] - sky.T[:, :, None], axis=0)
        # A mountain's top stands out from the sky but goes on below; the glow above a light ends there, but hardly
        # stands out. So the lesser of both counts.
        ends = np.linalg.norm(colour[:, 0] - colour[:, 2], axis=0)
        stands_out = 2 * np.minimum(contrast, ends)
        score = stands_out - 0.6 * spread[0] - 0.5 * spread[1] - 0.7 * no_sky + 6 * radius
        yield _Discs(r, columns, score[where], colour[(slice(None), 0, *where)])
