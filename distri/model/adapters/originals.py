"""Weights as they were before something was added to them, to be put back bit for bit."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distri.ranks import p2p
from distri.ranks.mesh import Axis

AT_ONCE = 32  # weights that travel in one batch of messages


class Originals:
    """Copies of weights that all ranks of an axis hold alike, kept once: in main memory, by the first of the ranks.

    Eight ranks that each kept them would take eight times the memory, and read it back at the same time over the same
    buses. So the first rank reads, through pinned memory, and hands on to the others.

    Args:
        axis: the ranks, which call every method together.
    """

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self._weights: list[Tensor] = []
        self._kept = torch.empty(0, dtype=torch.uint8)

    def keep(self, weights: Sequence[Tensor]) -> None:
        """Copy weights, in the place of what was kept before. No communication.

        Args:
            weights: dense, in any memory format; in one order on all ranks.
        """
        self._weights = list(weights)
        if self._axis.index > 0:
            return
        size = sum(weight.nbytes for weight in weights)
        on_gpu = any(weight.is_cuda for weight in weights)
        if self._kept.nbytes < size:
            self._kept = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        for kept, weight in self._pairs():
            kept.copy_(weight, non_blocking=True)
        if on_gpu:
            torch.cuda.synchronize()  # the weights are changed next

    def restore(self) -> None:
        """Put back what was kept, on all ranks, and keep it no longer. Blocks where there are several."""
        if self._axis.index == 0:
            for kept, weight in self._pairs():
                weight.copy_(kept, non_blocking=True)
        weights = [_flat(weight) for weight in self._weights]
        for start in range(0, len(weights), AT_ONCE):
            p2p.hand_on(self._axis, weights[start : start + AT_ONCE])
        self._weights = []

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Each weight's copy, and the weight, both flat and of one dtype."""
        pairs, start = [], 0
        for weight in sorted(
            map(_flat, self._weights), key=lambda flat: -flat.element_size()
        ):  # so that all are aligned
            pairs.append((self._kept[start : start + weight.nbytes].view(weight.dtype), weight))
            start += weight.nbytes
        return pairs


def _flat(weight: Tensor) -> Tensor:
    """The numbers of a dense tensor as they lie in memory, in one dimension."""
    return weight.as_strided((weight.numel(),), (1,))
