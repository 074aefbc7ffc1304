"""The part of a picture that is rendered alone where a row says `only_masked`, and how large."""

from __future__ import annotations

import math

from pipeline.input_picture import Inpainting, Region
from pipeline.promptset.decisions.sizes import UNIT_PX

_LONGEST = 2.0  # sides of a region: SDXL knows few pictures that are longer


def region_of(
    painted: Inpainting, padding: int, size: tuple[int, int], native_px: int, wanted: tuple[int, int] | None
) -> Region:
    """The mask with what it grows by and with its surroundings, in the shape in which it is rendered.

    Args:
        painted: the mask.
        padding: pixels around it.
        size: width and height of the picture.
        native_px: side of the square that the model was trained on: a region of fewer pixels is enlarged to as many.
        wanted: width and height in which it is rendered; None follows from the region. Those that would follow from it
            at some scale leave it as it is, so that a record which says them gives the same region again.

    Raises ValueError with (field, message).
    """
    edge = painted.grow + (painted.feather + 1) + padding
    left, top, right, bottom = painted.mask.box
    across, down = (max(0, left - edge), min(size[0], right + edge)), (max(0, top - edge), min(size[1], bottom + edge))
    width, height = across[1] - across[0], down[1] - down[0]
    shape = min(_LONGEST, max(1 / _LONGEST, width / height))
    plain = _shaped(across, down, shape, size)
    if wanted and not _follows(wanted, *(end - first for first, end in plain)):
        shape = wanted[0] / wanted[1]
        plain = _shaped(across, down, shape, size)
    across, down = plain
    width, height = across[1] - across[0], down[1] - down[0]
    if wanted and not _follows(wanted, width, height) and abs(width - height * shape) > max(1, shape):
        raise ValueError(
            "masked_size",
            f"{wanted[0]}x{wanted[1]} found, and around its mask the image has no more room than {width}x{height}; "
            "another shape wanted",
        )
    scale = native_px / math.sqrt(width * height)
    rendered = wanted or ((_unit(width * scale), _unit(height * scale)) if scale > 1 else (width, height))
    return Region(left=across[0], top=down[0], width=width, height=height, rendered=rendered, padding=padding)


def _shaped(
    across: tuple[int, int], down: tuple[int, int], shape: float, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The part in this shape: one side is longer than before."""
    width, height = across[1] - across[0], down[1] - down[0]
    if width < height * shape:
        return _widened(across, round(height * shape), size[0]), down
    return across, _widened(down, round(width / shape), size[1])


def _follows(wanted: tuple[int, int], width: int, height: int) -> bool:
    """Whether a part of this size is rendered in the wanted one at some scale, each side in whole units."""
    if wanted == (width, height):
        return True
    if wanted[0] % UNIT_PX or wanted[1] % UNIT_PX:
        return False
    pairs = (wanted[0], width), (wanted[1], height)
    least = max(0.0 if side == UNIT_PX else (side - UNIT_PX / 2) / own for side, own in pairs)
    return least <= min((side + UNIT_PX / 2) / own for side, own in pairs)


def _widened(span: tuple[int, int], length: int, limit: int) -> tuple[int, int]:
    """A span of this length, as far as there is room, around the one before."""
    length = min(length, limit)
    first = max(0, min(span[0] - (length - (span[1] - span[0])) // 2, limit - length))
    return first, first + length


def _unit(side: float) -> int:
    return max(UNIT_PX, round(side / UNIT_PX) * UNIT_PX)
