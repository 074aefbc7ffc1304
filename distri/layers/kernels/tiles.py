"""How kernels see an activation: channels by pixels, with a stride each, whatever order they lie in."""

# B batch, C channels, S pixels (all dimensions after the channels, flattened)

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

TILE = 2048  # elements that a program holds at a time: 16 a thread in four warps, so nothing spills
WIDEST_ROW = 1024
WIDEST_CHANNELS = 64  # 128 bytes of a half type, a whole line of the cache


@dataclass(frozen=True)
class Tiles:
    """Strides of an activation in elements, and the tile in which a program goes through it.

    Attributes:
        batch, channels, pixels: of the activation.
        strides: of image, channel and pixel.
        block_c, block_s: the tile, powers of two; the dimension that is contiguous in memory is the longer one.
    """

    batch: int
    channels: int
    pixels: int
    strides: tuple[int, int, int]
    block_c: int
    block_s: int


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(0, number - 1).bit_length()


def pixel_stride(x_BCS: Tensor) -> int | None:
    """From one pixel to the next, if all dimensions after the channels can be walked with one stride."""
    sizes, strides = x_BCS.shape[2:], x_BCS.stride()[2:]
    # The stride of a dimension of size 1 means nothing.
    walked = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1]
    for (_, outer), (size, inner) in pairwise(walked):
        if outer != size * inner:
            return None
    return walked[-1][1] if walked else 1


def walkable(x_BCS: Tensor) -> Tensor:
    """The activation itself, or a contiguous copy where its pixels cannot be walked with one stride."""
    return x_BCS if pixel_stride(x_BCS) is not None else x_BCS.contiguous()


def tiles_of(x_BCS: Tensor) -> Tiles:
    """How to go through a walkable activation; follows from its shape and strides alone, so all ranks do the same."""
    batch, channels = x_BCS.shape[:2]
    pixels = x_BCS[0, 0].numel()
    stride_s = pixel_stride(x_BCS)
    if stride_s is None:
        raise AssertionError("walkable comes first")
    strides = (x_BCS.stride(0), x_BCS.stride(1), stride_s)
    if stride_s == 1 or channels == 1:
        block_s = min(WIDEST_ROW, max(64, power_of_two(pixels)))
        return Tiles(batch, channels, pixels, strides, TILE // block_s, block_s)
    block_c = min(WIDEST_CHANNELS, max(16, power_of_two(channels)))
    return Tiles(batch, channels, pixels, strides, block_c, TILE // block_c)


def empty_like(x_BCS: Tensor) -> Tensor:
    """Room for a result: channels last where the argument is, else contiguous."""
    if x_BCS.stride(1) == 1 and x_BCS.shape[1] > 1:
        batch, channels, *sizes = x_BCS.shape
        room = torch.empty((batch, *sizes, channels), dtype=x_BCS.dtype, device=x_BCS.device)
        return room.movedim(-1, 1)
    return torch.empty(x_BCS.shape, dtype=x_BCS.dtype, device=x_BCS.device)
