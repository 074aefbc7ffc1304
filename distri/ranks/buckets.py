"""Buffers in which the tensors of several sites leave and arrive as one message.

A bucket is one message per peer for what goes to everybody (keys, values, moments), and one more for what only this
peer gets (halos, tokens handed on). A full bucket is sent at once, and waited for just before its first reader in the
next evaluation, so it has almost a whole evaluation to arrive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from distri.ranks import p2p
from distri.ranks.mesh import Axis

ALIGNMENT_BYTES = 64

# Of an evaluation's bytes, per bucket: few enough that latency does not count, and the last ones small, because what
# the last layers send is what the gather of the prediction has to queue behind.
SHARES = (0.24, 0.22, 0.2, 0.16, 0.1, 0.05, 0.02, 0.01)
SHARES_OF_REST = (0.4, 0.35, 0.2, 0.05)  # of halos and moments that are displaced later than keys and values


@dataclass(frozen=True)
class Cut:
    """A point of an evaluation where messages are posted or waited for. Nothing can be recorded across it.

    Attributes:
        act: posts the messages, waits for them, or both; it may be called once an evaluation.
        sent: what leaves here, with its values.
        received: what has arrived when `act` returns.
        bucket: whose messages these are, whose tensors are the same in all evaluations; None for a swap.
    """

    act: Callable[[], None]
    sent: Sequence[Tensor]
    received: Sequence[Tensor]
    bucket: "Bucket | None" = None


class Bucket:
    """Messages of some sites, which stay in flight from one evaluation into the next.

    Attributes:
        departure: where they are posted.
        arrival: where they are waited for.
    """

    def __init__(
        self,
        axis: Axis,
        sends: Sequence[p2p.Message],
        receives: Sequence[p2p.Message],
        views: tuple[Sequence[Tensor], Sequence[Tensor]],
    ) -> None:
        """`views` are the tensors of the sites, those sent and those received, in their own dtype and shape."""
        self._axis, self._sends, self._receives = axis, sends, receives
        self._pending: list[Any] = []
        sent, received = views
        self.departure = Cut(self._post, sent, (), self)
        self.arrival = Cut(self.wait, (), received, self)

    @property
    def sent_bytes(self) -> int:
        """Leaves this rank with every departure, each receiver counted."""
        return sum(message.tensor.nbytes for message in self._sends)

    @property
    def empty(self) -> bool:
        """Whether this rank has no part in its messages."""
        return not (self._sends or self._receives)

    def wait(self) -> None:
        """Wait for the messages in flight, if there are any."""
        p2p.finish(self._axis, self._pending)
        self._pending = []

    def _post(self) -> None:
        self._pending = p2p.post(self._axis, self._sends, self._receives)


class Scratch:
    """Room for the tensors of one swap after the other, for those who cannot let go of memory in between."""

    def __init__(self) -> None:
        self._bytes: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        return 0 if self._bytes is None else self._bytes.nbytes

    def views(self, shapes: Sequence[Sequence[int]], like: Tensor) -> list[Tensor]:
        """Tensors of these shapes, side by side, with the dtype and device of another; the ones before are void."""
        sizes = [_aligned(like.element_size() * torch.Size(shape).numel()) for shape in shapes]
        if self._bytes is None or self._bytes.nbytes < sum(sizes):
            self._bytes = torch.empty(sum(sizes), dtype=torch.uint8, device=like.device)
        starts = accumulate(sizes, initial=0)
        return [
            self._bytes[start : start + like.element_size() * torch.Size(shape).numel()].view(like.dtype).view(shape)
            for start, shape in zip(starts, shapes, strict=False)
        ]


def flat(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One byte buffer with copies of all tensors, and a view of each, in its own dtype and shape."""
    whole = torch.zeros(sum(_aligned(tensor.nbytes) for tensor in tensors), dtype=torch.uint8, device=tensors[0].device)
    views, start = [], 0
    for tensor in tensors:
        view = whole[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        views.append(view.copy_(tensor))
        start += _aligned(tensor.nbytes)
    return whole, views


def runs_of(names: Sequence[str], sizes: Sequence[int], shares: Sequence[float]) -> list[list[str]]:
    """Cut names, in their order, into runs of about these shares of the whole size.

    A run that is larger than its share takes from those after it, so that there may be fewer runs than shares. Of no
    names there is none.
    """
    if not names:
        return []
    total, done = sum(sizes), 0
    ends = list(accumulate(shares))
    runs: list[list[str]] = [[]]
    for name, size in zip(names, sizes, strict=True):
        if runs[-1] and len(ends) > 1 and done >= total * ends[0]:
            runs.append([])
            while len(ends) > 1 and done >= total * ends[0]:
                ends.pop(0)
        runs[-1].append(name)
        done += size
    return runs


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
