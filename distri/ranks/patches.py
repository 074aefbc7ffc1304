"""Which rows (or columns) of an image each patch rank holds, at every resolution of the network."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import product

from torch import Tensor

from distri.ranks.errors import TooManyRanks

ROWS, COLUMNS = 2, 3  # the dimensions of a BCHW tensor

MOST_WORK = 1.04  # of a rank, times the mean of all; below the 1.05 that docs/engine.md promises


@dataclass(frozen=True)
class TokenBalance:
    """When a rank with many rows hands tokens of its transformers on to ranks with few.

    Attributes:
        rows_share: of the network's arithmetic, what a rank does for the rows that it holds; the rest is for tokens.
        most_work: of a rank, times the mean of all, before it hands on; infinity means never. Ranks are balanced up
            to there and not made equal, because in a displaced evaluation a token handed on is two evaluations old.
    """

    rows_share: float
    most_work: float = MOST_WORK


@dataclass(frozen=True)
class Patches:
    """A split of an H x W image into consecutive patches along one dimension.

    Attributes:
        height, width: of the whole image, in the elements of this resolution.
        dim: the split dimension of a BCHW tensor, ROWS or COLUMNS.
        edges: patch r holds [edges[r], edges[r + 1]); one more edge than patches.
        balance: how transformers share their tokens; None means that every rank computes those of its patch.
    """

    height: int
    width: int
    dim: int
    edges: tuple[int, ...]
    balance: TokenBalance | None = None

    @property
    def count(self) -> int:
        return len(self.edges) - 1

    def rows(self, index: int) -> int:
        """Length of a patch along the split dimension."""
        return self.edges[index + 1] - self.edges[index]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a patch."""
        if self.dim == ROWS:
            return self.rows(index), self.width
        return self.height, self.rows(index)

    def area(self, index: int) -> int:
        """Elements per channel in a patch: its tokens, where there is attention."""
        height, width = self.size(index)
        return height * width

    @property
    def areas(self) -> tuple[int, ...]:
        """Elements per channel in every patch."""
        return tuple(map(self.area, range(self.count)))

    @property
    def tokens(self) -> tuple[int, ...]:
        """How many tokens every rank computes in a transformer: its patch's, but for those that are handed on."""
        return _balanced_tokens(self.areas, self.balance) if self.balance else self.areas

    @property
    def moves(self) -> tuple["Move", ...]:
        """What brings every rank from its patch's tokens to those that it computes."""
        return _moves(self.areas, self.tokens)

    def cut(self, whole_BCHW: Tensor, index: int) -> Tensor:
        """One patch of a whole tensor, as a view."""
        return whole_BCHW.narrow(self.dim, self.edges[index], self.rows(index))

    def at(self, halvings: int) -> "Patches":
        """The same split after that many stride-2 layers (negative: after that many doublings)."""
        return _scaled(self, halvings)


@dataclass(frozen=True)
class Move:
    """How many tokens of one patch are computed by the rank of another (places on the axis), per image of the batch."""

    origin: int
    destination: int
    tokens: int


@cache
def _balanced_tokens(areas: tuple[int, ...], balance: TokenBalance) -> tuple[int, ...]:
    """How many tokens each rank computes.

    A rank with too much work keeps as many as `most_work` allows, at least one. The rest goes, token by token, to the
    rank with the least work.
    """
    mean = sum(areas) / len(areas)
    of_rows = [balance.rows_share * area for area in areas]
    a_token = 1 - balance.rows_share
    allowed = [max(1, (balance.most_work * mean - rows) / a_token) for rows in of_rows]
    tokens = [math.floor(min(area, most)) for area, most in zip(areas, allowed, strict=True)]
    for _ in range(sum(areas) - sum(tokens)):
        least = min(range(len(areas)), key=lambda place: of_rows[place] + a_token * tokens[place])
        tokens[least] += 1
    return tuple(tokens)


@cache
def _moves(areas: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[Move, ...]:
    surplus = [own - wanted for own, wanted in zip(areas, tokens, strict=True)]
    moves = []
    for origin, destination in product(range(len(areas)), repeat=2):
        moved = min(surplus[origin], -surplus[destination])
        if moved > 0:
            moves.append(Move(origin, destination, moved))
            surplus[origin] -= moved
            surplus[destination] += moved
    return tuple(moves)


@cache
def _scaled(patches: Patches, halvings: int) -> Patches:
    def scale(length: int) -> int:
        if halvings < 0:
            return length << -halvings
        return -(-length >> halvings)  # a stride-2 layer of kernel 3 and padding 1 rounds up

    return Patches(
        height=scale(patches.height),
        width=scale(patches.width),
        dim=patches.dim,
        edges=tuple(scale(edge) for edge in patches.edges),
        balance=patches.balance,
    )


def longer_dim(height: int, width: int) -> int:
    """The dimension that is split: the longer one, rows when equal."""
    return COLUMNS if width > height else ROWS


def largest_degree(height: int, width: int, *, unit: int) -> int:
    """The most patches that an image of this size (in latent elements) can be split into."""
    return -(-max(height, width) // unit)


def split(height: int, width: int, count: int, *, unit: int) -> Patches:
    """Split an image along its longer side into `count` patches of whole units.

    Args:
        height, width: in latent elements.
        count: how many patches.
        unit: latent rows that stay together, so that every stride-2 layer starts its patch on an even row: 4 for the
            two downsamplings of SDXL's UNet, 1 where nothing is downsampled.

    Returns:
        Patches that differ by at most one unit. The last one holds the remainder when the side is no multiple of the
        unit; extra units go to the last patches, since the one with the remainder is short of a whole unit.

    Raises:
        TooManyRanks: there are fewer units than patches.
    """
    dim = longer_dim(height, width)
    rows = height if dim == ROWS else width
    units = largest_degree(height, width, unit=unit)
    if count > units:
        raise TooManyRanks(ranks=count, units=units, unit_rows=unit, rows=rows)
    base, extra = divmod(units, count)
    edges = [0]
    for index in range(count):
        edges.append(edges[-1] + unit * (base + (index >= count - extra)))
    edges[-1] = rows
    return Patches(height, width, dim, tuple(edges))
