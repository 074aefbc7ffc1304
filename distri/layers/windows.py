"""Self-attention within windows: which keys a token sees, which of them other ranks hold, and the attention itself.

Neighbourhood patch attention (ScaleDiff, NeurIPS 2025): tokens are divided into square blocks of half a window's side,
and all tokens of a block see the keys and values of the window around it. At the borders of the image the window is
moved inwards, so that every token sees as many keys. Blocks are counted from the image's top left corner, whatever the
ranks hold, so what a token sees is the same for every number of ranks. In the last layers they begin later, by another
part of a block each: otherwise the borders of blocks would lie in the same places in all of them, and show.
"""

# B batch, H and W rows and columns of tokens, C channels, N blocks side by side

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from distri.ranks.patches import COLUMNS, ROWS, Patches

_LAST_LAYERS = re.compile(r"up_blocks\.[1-9]\d*\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn1")

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # of queries, keys and values, each BTC; returns BTC


@dataclass(frozen=True)
class Block:
    """Rows (or columns) [start, stop) of tokens, which see `size` of them from `first` on."""

    start: int
    stop: int
    first: int
    size: int


@cache
def blocks_of(length: int, side: int, shift: int = 0) -> tuple[Block, ...]:
    """The blocks of so many rows or columns, for windows of this side: one block where all fit into a window.

    The first block ends after `shift` rows, which are fewer than a block's.
    """
    if length <= side:
        return (Block(0, length, 0, length),)
    width = max(1, side // 2)
    before = (side - width) // 2
    return tuple(
        Block(max(0, start), min(start + width, length), min(max(0, start - before), length - side), side)
        for start in range(shift - width if shift else 0, length, width)
    )


@dataclass(frozen=True)
class Windows:
    """Windows over the tokens of one resolution.

    Attributes:
        patches: which tokens each rank has; without tokens that are handed on.
        side: of a window, in tokens.
        shift: rows and columns of tokens before the second block.
    """

    patches: Patches
    side: int
    shift: int = 0

    @property
    def keys(self) -> int:
        """How many keys a token sees."""
        return min(self.patches.height, self.side) * min(self.patches.width, self.side)

    @property
    def across(self) -> int:
        """Tokens in one row of the split dimension."""
        return self.patches.width if self.patches.dim == ROWS else self.patches.height

    def seen(self, index: int) -> tuple[int, int]:
        """First and end of the rows along the split dimension that a rank's tokens see; its own are among them."""
        return _seen(self, index)

    def shared(self, origin: int, reader: int) -> tuple[int, int]:
        """First and end of the rows that rank `origin` holds and rank `reader` sees; equal where there are none."""
        (first, end), (start, stop) = self.seen(reader), self.edges(origin)
        first = max(first, start)
        return first, max(first, min(end, stop))

    def shared_rows(self, origin: int, reader: int) -> int:
        """How many they are."""
        first, end = self.shared(origin, reader)
        return end - first

    @property
    def traded_rows(self) -> int:
        """Rows that all ranks together send."""
        return _traded_rows(self)

    def attend(self, index: int, q_BHWC: Tensor, k_BHWC: Tensor, v_BHWC: Tensor, attend: Attend) -> Tensor:
        """What rank `index` attends to, each block of its tokens to its window.

        Blocks of one row of blocks that are as wide are one batch: no score of a token outside its window is computed.

        Args:
            index: place on the axis.
            q_BHWC: queries of the rank's patch.
            k_BHWC, v_BHWC: keys and values of the rows that its tokens see, `seen`, whole in the other dimension.
            attend: plain attention.

        Returns:
            BHWC, of the patch. No communication.
        """
        own = [(0, self.patches.height), (0, self.patches.width)]
        held = [(0, self.patches.height), (0, self.patches.width)]
        along = self.patches.dim - ROWS
        own[along], held[along] = self.edges(index), self.seen(index)
        (top, bottom), (left, right) = own
        out_BHWC = torch.empty_like(q_BHWC)
        for rows in _within(self.blocks(ROWS), top, bottom):
            first_row = rows.first - held[0][0]
            k_BRWC, v_BRWC = (x.narrow(1, first_row, rows.size) for x in (k_BHWC, v_BHWC))
            for _, alike in groupby(_within(self.blocks(COLUMNS), left, right), lambda block: block.stop - block.start):
                columns = list(alike)
                area = (
                    slice(None),
                    slice(rows.start - top, rows.stop - top),
                    slice(columns[0].start - left, columns[-1].stop - left),
                )
                q_BRXC = q_BHWC[area]
                batch, high, wide, channels = q_BRXC.shape
                count = len(columns)
                q_BRNXC = q_BRXC.reshape(batch, high, count, wide // count, channels)
                q_MTC = q_BRNXC.movedim(2, 0).reshape(count * batch, -1, channels)
                windows = [block.first - held[1][0] for block in columns]
                k_MKC, v_MKC = (
                    torch.stack([x_BRWC.narrow(2, start, columns[0].size) for start in windows])
                    .flatten(0, 1)
                    .flatten(1, 2)
                    for x_BRWC in (k_BRWC, v_BRWC)
                )
                found_NBRXC = attend(q_MTC, k_MKC, v_MKC).view(count, batch, high, wide // count, channels)
                out_BHWC[area] = found_NBRXC.movedim(0, 2).reshape(batch, high, wide, channels)
        return out_BHWC

    def blocks(self, dim: int) -> tuple[Block, ...]:
        """All blocks of one dimension, ROWS or COLUMNS."""
        return blocks_of(self.patches.height if dim == ROWS else self.patches.width, self.side, self.shift)

    def edges(self, index: int) -> tuple[int, int]:
        """First and end of the rows that a rank holds."""
        return self.patches.edges[index], self.patches.edges[index + 1]


def side_at(side: int, halvings: int) -> int:
    """The side of a window after that many stride-2 layers."""
    return -(-side >> halvings)


def windows_of(patches: Patches, side: int | None, halvings: int, site: str = "") -> Windows | None:
    """The windows of one layer; None where every token sees all others.

    Args:
        patches: of the latent.
        side: of a window, in latent elements; None means whole attention.
        halvings: how many stride-2 layers lie before.
        site: name of the layer.
    """
    if side is None or (patches.height <= side and patches.width <= side):
        return None
    tokens = side_at(side, halvings)
    return Windows(patches.at(halvings), tokens, shift_of(site, tokens))


def shift_of(site: str, side: int) -> int:
    """How many tokens before the second block of a layer whose windows have this side: none, but in the last layers.

    Borders show where they lie in those, the layers of the upward blocks after the first, and hardly elsewhere. Each of
    them has blocks that begin a quarter, half or three quarters of one later, so that no border runs through them all.
    Blocks that lie across the borders of ranks trade twice the rows, so it is so in no others (decision 537).
    """
    found = _LAST_LAYERS.fullmatch(site)
    return 0 if found is None else (1 + sum(map(int, found.groups())) % 3) * max(1, side // 2) // 4


@cache
def _seen(windows: Windows, index: int) -> tuple[int, int]:
    own = list(_within(windows.blocks(windows.patches.dim), *windows.edges(index)))
    return own[0].first, own[-1].first + own[-1].size


@cache
def _traded_rows(windows: Windows) -> int:
    places = range(windows.patches.count)
    return sum(windows.shared_rows(origin, reader) for origin in places for reader in places if origin != reader)


def _within(blocks: tuple[Block, ...], start: int, stop: int) -> Iterator[Block]:
    """What of each block lies within [start, stop)."""
    for block in blocks:
        if block.start < stop and block.stop > start:
            yield Block(max(start, block.start), min(stop, block.stop), block.first, block.size)
