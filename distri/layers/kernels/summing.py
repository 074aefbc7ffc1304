"""The end of a residual block in one reading: two activations, and biases of the convolutions before them."""

# B batch, C channels, S pixels

import triton
import triton.language as tl
from torch import Tensor

from distri.layers.kernels.tiles import empty_like, pixel_stride, tiles_of, walkable


@triton.jit
def _sum(
    x,
    other,
    y,
    bias,
    other_bias,
    pixels,
    channels,
    x_stride_b,
    x_stride_c,
    x_stride_s,
    other_stride_b,
    other_stride_c,
    other_stride_s,
    y_stride_b,
    y_stride_c,
    y_stride_s,
    OTHER_BIAS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    first_pixel, first_channel = tl.program_id(0) * BLOCK_S, tl.program_id(1) * BLOCK_C
    image = tl.program_id(2).to(tl.int64)
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    known = first_channel + c < channels
    mask = known[:, None] & (first_pixel + s < pixels)[None, :]
    added = tl.load(bias + first_channel + c, mask=known, other=0.0).to(tl.float32)
    if OTHER_BIAS:
        added += tl.load(other_bias + first_channel + c, mask=known, other=0.0).to(tl.float32)
    first_channel, first_pixel = first_channel.to(tl.int64), first_pixel.to(tl.int64)
    c, s = c[:, None].to(tl.int64), s[None, :].to(tl.int64)
    here = x + image * x_stride_b + first_channel * x_stride_c + first_pixel * x_stride_s
    value = tl.load(here + (c * x_stride_c + s * x_stride_s), mask=mask, other=0.0).to(tl.float32)
    here = other + image * other_stride_b + first_channel * other_stride_c + first_pixel * other_stride_s
    value += tl.load(here + (c * other_stride_c + s * other_stride_s), mask=mask, other=0.0).to(tl.float32)
    value += added[:, None]
    there = y + image * y_stride_b + first_channel * y_stride_c + first_pixel * y_stride_s
    tl.store(there + (c * y_stride_c + s * y_stride_s), value.to(y.dtype.element_ty), mask=mask)


def summed(x_BCS: Tensor, other_BCS: Tensor, bias_C: Tensor, other_bias_C: Tensor | None = None) -> Tensor:
    """The sum of two activations of one shape and of one or two biases, in float32.

    Args:
        x_BCS, other_BCS: half or single precision, each in any order in memory; the result has the dtype of the first,
            and its order where that is channels last.
        bias_C, other_bias_C: contiguous.

    No communication.
    """
    x_BCS, other_BCS = walkable(x_BCS), walkable(other_BCS)
    tiles = tiles_of(x_BCS)
    y_BCS = empty_like(x_BCS)
    grid = (triton.cdiv(tiles.pixels, tiles.block_s), triton.cdiv(tiles.channels, tiles.block_c), tiles.batch)
    _sum[grid](
        x_BCS,
        other_BCS,
        y_BCS,
        bias_C,
        bias_C if other_bias_C is None else other_bias_C,
        tiles.pixels,
        tiles.channels,
        *tiles.strides,
        other_BCS.stride(0),
        other_BCS.stride(1),
        pixel_stride(other_BCS),
        y_BCS.stride(0),
        y_BCS.stride(1),
        pixel_stride(y_BCS),
        OTHER_BIAS=other_bias_C is not None,
        BLOCK_C=tiles.block_c,
        BLOCK_S=tiles.block_s,
        num_warps=4,
    )
    return y_BCS
