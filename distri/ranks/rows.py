"""Rows that all ranks have a share of, side by side in one tensor, each rank's part contiguous."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from distri.ranks.p2p import Message


@dataclass(frozen=True)
class Rows:
    """What each rank of an axis brings: so many rows, all of one shape.

    Attributes:
        counts: by place on the axis.
        shape: of a row.
    """

    counts: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, place: int) -> slice:
        """The rows of a rank."""
        starts = list(accumulate(self.counts, initial=0))
        return slice(starts[place], starts[place + 1])

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """All rows of all ranks."""
        return (sum(self.counts), *self.shape)


def messages(rows: Rows, whole: Tensor, index: int, tag: int) -> tuple[list[Message], list[Message]]:
    """Own rows to everyone, and everyone's rows into their places: what this rank sends and receives."""
    others = [place for place in range(len(rows.counts)) if place != index]
    sends = [Message(place, whole[rows.of(index)], tag) for place in others]
    return sends, [Message(place, whole[rows.of(place)], tag) for place in others]


def interleaved(wholes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Room for several sites' rows, filled with these, and a view of each site's.

    Row r of all sites lies together, so that a rank's part of them all is contiguous, and one message.

    Args:
        wholes: of one shape (rows, ...) and dtype.

    Returns:
        A tensor (rows, sites, ...), and views (rows, ...) of it.
    """
    together = torch.stack(list(wholes), dim=1)
    return together, list(together.unbind(1))
