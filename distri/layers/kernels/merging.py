"""The whole image's moments from those of its patches, merged and corrected in one small kernel."""

# B batch, G groups, R ranks

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64


@triton.jit
def _load(moments, size, place, mask):
    return tl.load(moments + place, mask=mask, other=0.0), tl.load(moments + size + place, mask=mask, other=0.0)


@triton.jit
def _merge(moments_R, share_R, size, place, mask, RANKS: tl.constexpr):
    """Mean and variance by deviations from the first rank's mean."""
    first, _ = _load(moments_R[0], size, place, mask)
    shift = tl.zeros_like(first)
    for rank in tl.static_range(RANKS):
        mean, _ = _load(moments_R[rank], size, place, mask)
        shift += share_R[rank] * (mean - first)
    variance = tl.zeros_like(first)
    for rank in tl.static_range(RANKS):
        mean, own_variance = _load(moments_R[rank], size, place, mask)
        apart = mean - first - shift
        variance += share_R[rank] * (own_variance + apart * apart)
    return first + shift, variance


@triton.jit
def _image_moments(
    fresh_R,
    stale_R,
    own,
    own_stale,
    share_R,
    merged,
    size,
    RANKS: tl.constexpr,
    CORRECTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    mean, variance = _merge(fresh_R, share_R, size, place, mask, RANKS)
    if CORRECTED:
        stale_mean, stale_variance = _merge(stale_R, share_R, size, place, mask, RANKS)
        own_mean, own_variance = _load(own, size, place, mask)
        then_mean, then_variance = _load(own_stale, size, place, mask)
        moved = stale_variance + (own_variance - then_variance)
        mean = tl.where(moved > 0, stale_mean + (own_mean - then_mean), mean)
        variance = tl.where(moved > 0, moved, variance)
    tl.store(merged + place, mean, mask=mask)
    tl.store(merged + size + place, variance, mask=mask)


def image_moments(
    moments_R2BG: Sequence[Tensor], pixels_R: Sequence[int], index: int, own_stale_2BG: Tensor | None = None
) -> Tensor:
    """Mean and biased variance of the whole image, stacked: shape (2, B, G), float32.

    Args:
        moments_R2BG: each rank's, in the order of the axis, contiguous float32.
        pixels_R: how many elements each rank's statistics cover; only the proportions matter.
        index: which of them is this rank's own, fresh.
        own_stale_2BG: this rank's own in the evaluation before. With it the others' are taken to be as old, and the
            image's moments are moved by this rank's drift; a group whose variance would not be positive takes own
            fresh and others' stale.

    No communication.
    """
    own_2BG = moments_R2BG[index]
    own_stale = own_2BG if own_stale_2BG is None else own_stale_2BG
    merged_2BG = torch.empty_like(own_2BG)
    size, total = own_2BG[0].numel(), sum(pixels_R)
    _image_moments[(triton.cdiv(size, BLOCK),)](
        tuple(moments_R2BG),
        (*moments_R2BG[:index], own_stale, *moments_R2BG[index + 1 :]),
        own_2BG,
        own_stale,
        tuple(pixels / total for pixels in pixels_R),
        merged_2BG,
        size,
        RANKS=len(moments_R2BG),
        CORRECTED=own_stale_2BG is not None,
        BLOCK=BLOCK,
        num_warps=1,
    )
    return merged_2BG
