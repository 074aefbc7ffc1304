"""A VAE's widest layers in strips of a patch, one after the other, with the result of the whole.

Pixels of a convolution need few rows around them, which a strip has beside its own; only a GroupNorm looks at the whole
image. So a segment of layers is walked through once for each of its norms: every strip goes as far as the norm whose
moments are not known yet, and leaves its share of them. Then once to the end. What stays is what a segment begins and
ends with, at a half of the sides of its widest layers.
"""

# B batch, C channels, H and W of this rank's patch, G groups

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distri.layers.context import Context
from distri.layers.norm import merged_moments
from distri.layers.strip_norms import Strip, StripNorms, Unmeasured
from distri.ranks import p2p
from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis, axis_of_one
from distri.ranks.patches import Patches
from distri.ranks.sites import Incoming, Outgoing


@dataclass(frozen=True)
class Piece:
    """A part of a network that is called with what the part before it gave.

    Attributes:
        call: of one tensor.
        network: what it calls, to count its convolutions.
        halvings: of both sides; -1 is a doubling.
    """

    call: Callable[[Tensor], Tensor]
    network: nn.Module
    halvings: int = 0

    @property
    def channels(self) -> int:
        """Of its widest activation."""
        widths = [1]
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                widths += [module.in_channels, module.out_channels]
            elif isinstance(module, nn.GroupNorm):
                widths.append(module.num_channels)
        return max(widths)

    @property
    def reach(self) -> int:
        """Rows around a pixel that its convolutions look at, in the finer of its resolutions."""
        convolutions = [module for module in self.network.modules() if isinstance(module, nn.Conv2d)]
        return sum(1 for module in convolutions if module.kernel_size[0] > 1)

    @property
    def looks_at_all(self) -> bool:
        """Whether it attends to the whole image."""
        return any(type(module).__name__ == "Attention" for module in self.network.modules())


@dataclass(frozen=True)
class Segment:
    """Pieces between two resolutions; what goes in and out of it is kept whole."""

    pieces: tuple[Piece, ...]

    @property
    def halvings(self) -> int:
        """Of both sides, from its beginning to its end."""
        return sum(piece.halvings for piece in self.pieces)

    @property
    def growth(self) -> float:
        """Of both sides, a power of two."""
        return 2.0**-self.halvings

    @property
    def unit(self) -> int:
        """Rows of what goes in that make a row of what comes out, if that is smaller."""
        return 1 << max(0, self.halvings)

    @property
    def margin(self) -> int:
        """Rows of what goes in that a strip needs on both sides beyond its own."""
        rows = sum(piece.reach / finest for piece, finest in self._scales())
        return math.ceil(rows / self.unit) * self.unit

    def widest_numbers(self, pixels: int) -> int:
        """Of the widest activation, for an input of so many pixels."""
        return max(int(piece.channels * pixels * finest**2) for piece, finest in self._scales())

    def _scales(self) -> Iterator[tuple[Piece, float]]:
        """Each piece with the finer of its resolutions, by that of what goes into the segment."""
        scale = 1.0
        for piece in self.pieces:
            finest = scale * max(1.0, 2.0**-piece.halvings)
            yield piece, finest
            scale *= 2.0**-piece.halvings


def segments_of(pieces: Sequence[Piece]) -> list[Segment]:
    """Cut before what makes its input larger and after what makes it smaller."""
    cut: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece.halvings < 0:
            cut.append([])
        cut[-1].append(piece)
        if piece.halvings > 0:
            cut.append([])
    return [Segment(tuple(part)) for part in cut if part]


def walk(segment: Segment, x_BCHW: Tensor) -> Tensor:
    """All pieces, of the whole patch or of a strip."""
    for piece in segment.pieces:
        x_BCHW = piece.call(x_BCHW)
    return x_BCHW


def in_strips(segment: Segment, x_BCHW: Tensor, patches: Patches, context: Context, *, strip_bytes: int) -> Tensor:
    """What `walk` gives, of this rank's patch. Blocks: the neighbours' rows once, and moments once a norm.

    Args:
        segment: of a network whose layers read `context`.
        x_BCHW: this rank's patch, with at least `segment.margin` rows along the split dimension, as all ranks have.
        patches: how `x_BCHW` is split over the context's axis.
        context: nothing else is computed with it meanwhile.
        strip_bytes: of the widest activation of a strip, about.
    """
    dim, axis = patches.dim, context.axis
    rows, unit = x_BCHW.shape[dim], segment.unit
    widest_bytes = segment.widest_numbers(x_BCHW[:, 0].numel()) * x_BCHW.element_size()
    count = max(1, -(-widest_bytes // strip_bytes))
    length = max(1, -(-rows // (count * unit))) * unit
    around_BCHW, before = _with_neighbours(x_BCHW, segment.margin, axis, dim)
    strips = list(_strips(around_BCHW, dim, range(before, before + rows, length), before + rows, segment.margin))
    norms = StripNorms(dim)
    others = context.axis, context.exchange, context.strips
    context.axis, context.exchange, context.strips = axis_of_one(), Exchange(axis_of_one()), norms
    try:
        while True:
            out_BCHW = _pass(segment, strips, norms, x_BCHW)
            if norms.site is None:
                if out_BCHW is None:
                    raise RuntimeError("strips ended at a norm without a name")
                return out_BCHW
            norms.known[norms.site] = _merged(norms.noted, axis, patches)
            norms.noted, norms.site = [], None
    finally:
        context.axis, context.exchange, context.strips = others


def _pass(segment: Segment, strips: Sequence[Strip], norms: StripNorms, x_BCHW: Tensor) -> Tensor | None:
    """Every strip as far as it comes; all of the segment's output if that was to the end."""
    out_BCHW = None
    for strip in strips:
        norms.strip = strip
        try:
            own_BCHW = norms.own(walk(segment, strip.rows))
        except Unmeasured:
            continue
        if out_BCHW is None:
            sides = (int(side * segment.growth) for side in x_BCHW.shape[2:])
            out_BCHW = own_BCHW.new_empty((*own_BCHW.shape[:2], *sides))
            if own_BCHW.is_contiguous(memory_format=torch.channels_last):
                out_BCHW = out_BCHW.to(memory_format=torch.channels_last)
        out_BCHW.narrow(norms.dim, int(strip.place * segment.growth), own_BCHW.shape[norms.dim]).copy_(own_BCHW)
    return out_BCHW


def _merged(noted: Sequence[tuple[Tensor, int]], axis: Axis, patches: Patches) -> Tensor:
    """The image's moments from those of all strips of all ranks."""
    own_2BG = merged_moments([moments for moments, _ in noted], [pixels for _, pixels in noted])
    if axis.size == 1:
        return own_2BG
    parts = p2p.gather(axis, own_2BG, [tuple(own_2BG.shape)] * axis.size)
    return merged_moments(parts, patches.areas)


def _with_neighbours(x_BCHW: Tensor, margin: int, axis: Axis, dim: int) -> tuple[Tensor, int]:
    """The patch with so many rows of both neighbours', and how many of them come before it."""
    rows, outgoing, incoming = x_BCHW.shape[dim], [], []
    shape = list(x_BCHW.shape)
    shape[dim] = margin
    for peer, first in ((axis.index - 1, 0), (axis.index + 1, rows - margin)):
        if 0 <= peer < axis.size:
            outgoing.append(Outgoing((peer,), x_BCHW.narrow(dim, first, margin), everyone=False))
            incoming.append(Incoming(peer, tuple(shape), everyone=False))
    if not outgoing:
        return x_BCHW, 0
    parts = Exchange(axis).swap(outgoing, incoming, like=x_BCHW)
    before = [parts.pop(0)] if axis.index > 0 else []
    return torch.cat([*before, x_BCHW, *parts], dim), margin if before else 0


def _strips(around_BCHW: Tensor, dim: int, starts: range, end: int, margin: int) -> Iterator[Strip]:
    """From these rows on, as far as the next one or `end`, each with so many rows on both sides as there are."""
    for start in starts:
        stop = min(start + starts.step, end)
        first, last = max(0, start - margin), min(around_BCHW.shape[dim], stop + margin)
        rows_BCHW = around_BCHW.narrow(dim, first, last - first)
        yield Strip(rows_BCHW, start - first, stop - first, start - starts.start)


def is_divisible(segment: Segment, patches: Patches) -> bool:
    """Whether every rank's patch of what goes in has the rows that its neighbours need."""
    return not any(piece.looks_at_all for piece in segment.pieces) and (
        patches.count == 1 or min(map(patches.rows, range(patches.count))) >= segment.margin
    )


def decoder_pieces(decoder: Any) -> list[Piece]:
    """Of diffusers' `Decoder`, as its forward calls them."""
    pieces = [Piece(decoder.conv_in, decoder.conv_in), Piece(decoder.mid_block, decoder.mid_block)]
    for block in decoder.up_blocks:
        pieces += [_resnet(resnet) for resnet in block.resnets]
        pieces += [Piece(one, one, -1) for one in block.upsamplers or ()]
    return [*pieces, *_ends(decoder)]


def encoder_pieces(encoder: Any) -> list[Piece]:
    """Of diffusers' `Encoder`, as its forward calls them."""
    pieces = [Piece(encoder.conv_in, encoder.conv_in)]
    for block in encoder.down_blocks:
        pieces += [_resnet(resnet) for resnet in block.resnets]
        pieces += [Piece(one, one, 1) for one in block.downsamplers or ()]
    return [*pieces, Piece(encoder.mid_block, encoder.mid_block), *_ends(encoder)]


def _resnet(resnet: Any) -> Piece:
    return Piece(lambda x_BCHW: resnet(x_BCHW, None), resnet)


def _ends(network: Any) -> list[Piece]:
    return [Piece(one, one) for one in (network.conv_norm_out, network.conv_act, network.conv_out)]
