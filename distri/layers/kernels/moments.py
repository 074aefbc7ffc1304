"""Mean and variance of each group of channels, in one reading of the activation.

Each program goes through some pixels of some channels; a second, small kernel merges what they found, always in the
same order, so the result is the same in every run. Nothing is subtracted but deviations from a mean (Welford 1962;
Chan, Golub and LeVeque 1983), so it stays right where the mean is large beside the deviation.
"""

# B batch, C channels, G groups, S pixels, P parts of the pixels

import torch
import triton
import triton.language as tl
from torch import Tensor

from distri.layers.kernels.tiles import Tiles, tiles_of, walkable

PROGRAMS = 512  # enough for all multiprocessors of today's GPUs, and few enough that merging costs nothing
MERGED_AT_ONCE = 1024


@triton.jit
def _channel_moments(
    x,
    mean_PBC,
    m2_PBC,
    pixels,
    pixels_a_part,
    channels,
    stride_b,
    stride_c,
    stride_s,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Mean, and sum of squared deviations, of each channel over one part of its pixels."""
    part, tile, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_channel, first_pixel = tile * BLOCK_C, part * pixels_a_part
    count = tl.minimum(pixels_a_part, pixels - first_pixel)
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    here = x + image.to(tl.int64) * stride_b + first_channel.to(tl.int64) * stride_c
    here += first_pixel.to(tl.int64) * stride_s
    offsets = c[:, None].to(tl.int64) * stride_c + s[None, :].to(tl.int64) * stride_s
    known = (first_channel + c < channels)[:, None]
    # Every element of the tile keeps moments of its own until the end, so threads meet only once.
    mean = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    m2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    step = tl.full((), BLOCK_S, tl.int64) * stride_s
    seen = 0.0
    for start in range(0, count, BLOCK_S):
        mask = known & (start + s < count)[None, :]
        value = tl.load(here + offsets, mask=mask, other=0.0).to(tl.float32)
        seen += 1.0
        delta = tl.where(mask, value - mean, 0.0)
        mean += delta * (1.0 / seen)
        m2 += delta * tl.where(mask, value - mean, 0.0)
        here += step
    visits = tl.maximum((count - s + BLOCK_S - 1) // BLOCK_S, 0).to(tl.float32)[None, :]
    total = count.to(tl.float32)
    rough = tl.sum(mean * visits, 1) / total
    apart = tl.where(visits > 0, mean - rough[:, None], 0.0)
    shift = tl.sum(apart * visits, 1) / total
    apart = tl.where(visits > 0, apart - shift[:, None], 0.0)
    place = (part * tl.num_programs(2) + image) * channels + first_channel + c
    tl.store(mean_PBC + place, rough + shift, mask=first_channel + c < channels)
    tl.store(m2_PBC + place, tl.sum(m2 + apart * apart * visits, 1), mask=first_channel + c < channels)


# Numbers that differ from layer to layer are no part of what is compiled, where no access depends on them.
@triton.jit(do_not_specialize=["parts", "pixels", "pixels_a_part", "per_group"])
def _group_moments(
    mean_PBC,
    m2_PBC,
    added_BC,
    moments_2BG,
    parts,
    pixels,
    pixels_a_part,
    channels,
    per_group,
    added_stride,
    ADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean and biased variance of one group from those of its channels' parts."""
    group, image = tl.program_id(0), tl.program_id(1)
    batch = tl.num_programs(1)
    count = parts * per_group
    total = tl.cast(pixels, tl.float32) * tl.cast(per_group, tl.float32)
    mean = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        mask = index < count
        part, channel = index // per_group, group * per_group + index % per_group
        weight = tl.where(mask, tl.minimum(pixels_a_part, pixels - part * pixels_a_part), 0).to(tl.float32)
        value = tl.load(mean_PBC + (part * batch + image) * channels + channel, mask=mask, other=0.0)
        if ADDED:
            value += tl.load(added_BC + image * added_stride + channel, mask=mask, other=0.0).to(tl.float32)
        mean += value * (weight / total)
    rough = tl.sum(mean, 0)
    shift = tl.zeros((BLOCK,), tl.float32)
    spread = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        mask = index < count
        part, channel = index // per_group, group * per_group + index % per_group
        weight = tl.where(mask, tl.minimum(pixels_a_part, pixels - part * pixels_a_part), 0).to(tl.float32)
        place = (part * batch + image) * channels + channel
        value = tl.load(mean_PBC + place, mask=mask, other=0.0)
        if ADDED:
            value += tl.load(added_BC + image * added_stride + channel, mask=mask, other=0.0).to(tl.float32)
        apart = tl.where(mask, value - rough, 0.0)
        shift += apart * (weight / total)
        spread += (tl.load(m2_PBC + place, mask=mask, other=0.0) + apart * apart * weight) / total
    drift = tl.sum(shift, 0)
    groups = tl.num_programs(0)
    place = image * groups + group
    tl.store(moments_2BG + place, rough + drift)
    tl.store(moments_2BG + batch * groups + place, tl.maximum(tl.sum(spread, 0) - drift * drift, 0.0))


def group_moments(x_BCS: Tensor, groups: int, added_BC: Tensor | None = None) -> Tensor:
    """Mean and biased variance of each group, stacked: shape (2, B, G), float32.

    Args:
        x_BCS: half or single precision, in any order in memory.
        groups: a divisor of the channels.
        added_BC: added to every pixel of a channel first, in float32; its channels are contiguous.

    No communication.
    """
    x_BCS = walkable(x_BCS)
    tiles = tiles_of(x_BCS)
    batch, channels = tiles.batch, tiles.channels
    parts, pixels_a_part = _parts(tiles)
    found = torch.empty((2, parts, batch, channels), dtype=torch.float32, device=x_BCS.device)
    moments_2BG = torch.empty((2, batch, groups), dtype=torch.float32, device=x_BCS.device)
    grid = (parts, triton.cdiv(channels, tiles.block_c), batch)
    _channel_moments[grid](
        x_BCS,
        found[0],
        found[1],
        tiles.pixels,
        pixels_a_part,
        channels,
        *tiles.strides,
        BLOCK_C=tiles.block_c,
        BLOCK_S=tiles.block_s,
        num_warps=4,
    )
    _group_moments[(groups, batch)](
        found[0],
        found[1],
        found if added_BC is None else added_BC,
        moments_2BG,
        parts,
        tiles.pixels,
        pixels_a_part,
        channels,
        channels // groups,
        0 if added_BC is None else added_BC.stride(0),
        ADDED=added_BC is not None,
        BLOCK=MERGED_AT_ONCE,
        num_warps=4,
    )
    return moments_2BG


def _parts(tiles: Tiles) -> tuple[int, int]:
    """Into how many parts the pixels are cut, and how many pixels each but the last has: whole tiles."""
    steps = triton.cdiv(tiles.pixels, tiles.block_s)
    wanted = max(1, PROGRAMS // (triton.cdiv(tiles.channels, tiles.block_c) * tiles.batch))
    steps_a_part = max(2, triton.cdiv(steps, wanted))
    pixels_a_part = steps_a_part * tiles.block_s
    return triton.cdiv(tiles.pixels, pixels_a_part), pixels_a_part
