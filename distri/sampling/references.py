"""Reference pictures in one pass: their masks in its size, and what each half of guidance attends to."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distri.layers.references import ReferenceRows
from distri.model.image import Fit
from distri.model.passes.stages import Stage
from distri.model.reference.references import ReadReference
from distri.sampling.pixels import placed

COUNTS = 128  # levels of a mask from which on a picture counts


def rows_of(
    references: Sequence[ReadReference],
    place: tuple[tuple[int, int], Stage, tuple[int, int]],
    *,
    negative: bool,
    device: torch.device,
) -> tuple[ReferenceRows, ...]:
    """What a half of guidance attends to beside its text.

    Args:
        references: of the image.
        place: width and height of the image, the pass, and left and top of the image on its canvas.
        negative: which half.
        device: where masks go.
    """
    return tuple(one.rows(_mask(one, place, device), negative=negative) for one in references)


def _mask(
    one: ReadReference, place: tuple[tuple[int, int], Stage, tuple[int, int]], device: torch.device
) -> Tensor | None:
    """11HW of 0 and 1, in the pixels of a pass."""
    if one.reference.mask is None:
        return None
    share_11HW = torch.from_numpy(one.reference.mask).ge(COUNTS).float()[None, None].to(device)
    return (placed(share_11HW, Fit.STRETCH, *place) >= 0.5).float()
