"""Which rows (or columns) of an image each patch rank holds, at every resolution of the network."""

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from distri.errors import TooManyRanks

ROWS, COLUMNS = 2, 3  # the dimensions of a BCHW tensor


@dataclass(frozen=True)
class Patches:
    """A split of an H x W image into consecutive patches along one dimension.

    Attributes:
        height, width: of the whole image, in the elements of this resolution.
        dim: the split dimension of a BCHW tensor, ROWS or COLUMNS.
        edges: patch r holds [edges[r], edges[r + 1]); one more edge than patches.
    """

    height: int
    width: int
    dim: int
    edges: tuple[int, ...]

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

    def cut(self, whole_BCHW: Tensor, index: int) -> Tensor:
        """One patch of a whole tensor, as a view."""
        return whole_BCHW.narrow(self.dim, self.edges[index], self.rows(index))

    def at(self, halvings: int) -> "Patches":
        """The same split after that many stride-2 layers (negative: after that many doublings)."""
        return _scaled(self, halvings)


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
