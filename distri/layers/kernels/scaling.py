"""Scale and shift by known moments and weights, and the SiLU that follows: half in, half out, single inside."""

# B batch, C channels, G groups, S pixels

import triton
import triton.language as tl
from torch import Tensor

from distri.layers.kernels.tiles import empty_like, pixel_stride, tiles_of, walkable


@triton.jit(do_not_specialize=["groups", "per_group"])
def _scale(
    x,
    y,
    moments_2BG,
    weight,
    bias,
    added_BC,
    epsilon,
    pixels,
    channels,
    groups,
    per_group,
    added_stride,
    x_stride_b,
    x_stride_c,
    x_stride_s,
    y_stride_b,
    y_stride_c,
    y_stride_s,
    AFFINE: tl.constexpr,
    ADDED: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    first_pixel, first_channel = tl.program_id(0) * BLOCK_S, tl.program_id(1) * BLOCK_C
    image, batch = tl.program_id(2), tl.num_programs(2)
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    channel = first_channel + c
    known = channel < channels
    place = image * groups + channel // per_group
    shift = tl.load(moments_2BG + place, mask=known, other=0.0)
    scale = tl.rsqrt(tl.load(moments_2BG + batch * groups + place, mask=known, other=1.0) + epsilon)
    if ADDED:
        shift -= tl.load(added_BC + image * added_stride + channel, mask=known, other=0.0).to(tl.float32)
    after = tl.zeros((BLOCK_C,), tl.float32)
    if AFFINE:
        scale *= tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
        after = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    mask = known[:, None] & (first_pixel + s < pixels)[None, :]
    here = x + image.to(tl.int64) * x_stride_b + first_channel.to(tl.int64) * x_stride_c
    here += first_pixel.to(tl.int64) * x_stride_s
    offsets = c[:, None].to(tl.int64) * x_stride_c + s[None, :].to(tl.int64) * x_stride_s
    value = tl.load(here + offsets, mask=mask, other=0.0).to(tl.float32)
    value = (value - shift[:, None]) * scale[:, None] + after[:, None]
    if SILU:
        value = value / (1.0 + tl.exp(-tl.maximum(value, -80.0)))  # beyond it the result is zero, and exp infinite
    there = y + image.to(tl.int64) * y_stride_b + first_channel.to(tl.int64) * y_stride_c
    there += first_pixel.to(tl.int64) * y_stride_s
    offsets = c[:, None].to(tl.int64) * y_stride_c + s[None, :].to(tl.int64) * y_stride_s
    tl.store(there + offsets, value.to(y.dtype.element_ty), mask=mask)


def scaled(
    x_BCS: Tensor,
    moments_2BG: Tensor,
    weight_C: Tensor | None,
    bias_C: Tensor | None,
    epsilon: float,
    *,
    silu: bool = False,
    added_BC: Tensor | None = None,
) -> Tensor:
    """The activation normalised by given moments, scaled and shifted by weights, and SiLU of that if asked for.

    Args:
        x_BCS: half or single precision, in any order in memory; the result has its dtype, and its order where that is
            channels last.
        moments_2BG: mean and variance, float32, contiguous.
        weight_C, bias_C: both or neither.
        epsilon: added to the variance.
        added_BC: added to every pixel of a channel first, in float32; its channels are contiguous.

    No communication.
    """
    x_BCS = walkable(x_BCS)
    tiles = tiles_of(x_BCS)
    y_BCS = empty_like(x_BCS)
    groups = moments_2BG.shape[-1]
    grid = (triton.cdiv(tiles.pixels, tiles.block_s), triton.cdiv(tiles.channels, tiles.block_c), tiles.batch)
    _scale[grid](
        x_BCS,
        y_BCS,
        moments_2BG,
        moments_2BG if weight_C is None else weight_C,
        moments_2BG if bias_C is None else bias_C,
        moments_2BG if added_BC is None else added_BC,
        epsilon,
        tiles.pixels,
        tiles.channels,
        groups,
        tiles.channels // groups,
        0 if added_BC is None else added_BC.stride(0),
        *tiles.strides,
        y_BCS.stride(0),
        y_BCS.stride(1),
        pixel_stride(y_BCS),
        AFFINE=weight_C is not None,
        ADDED=added_BC is not None,
        SILU=silu,
        BLOCK_C=tiles.block_c,
        BLOCK_S=tiles.block_s,
        num_warps=4,
    )
    return y_BCS
