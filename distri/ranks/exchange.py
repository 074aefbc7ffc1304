"""The one owner of all buffers that hold other ranks' activations.

A layer trades at its site: it gives tensors for peers and reads what the peers gave at the same site.

- In a synchronous evaluation the trade is immediate and blocks.
- In the last synchronous evaluation before displaced ones, the trades are also recorded in their order. When it ends,
  they are divided into a few buckets of about equal bytes, and the buckets' buffers are allocated, once, and filled.
- In a displaced evaluation a layer reads what its peers sent in the evaluation before, and its own tensors go into the
  bucket; a full bucket is sent at once. It is waited for just before its first reader in the next evaluation, so it has
  almost a whole evaluation to arrive. A bucket is one message per peer for what goes to everybody (keys, values,
  moments), and one more for what only this peer gets (halos, tokens handed on).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distri.ranks import p2p
from distri.ranks.errors import Unsplittable
from distri.ranks.mesh import Axis
from distri.ranks.phase import Evaluation, Phase

BUCKETS = 8  # per evaluation: few enough that latency does not count, enough that the last one is not all of them
ALIGNMENT_BYTES = 64
SWAP_TAG = 0  # waited for at once; the tags of buckets, which stay in flight, start at p2p.FREE_TAGS


@dataclass(frozen=True)
class Outgoing:
    """One tensor for some peers (places on the axis): for everyone, or for one of them."""

    peers: tuple[int, ...]
    tensor: Tensor
    everyone: bool


@dataclass(frozen=True)
class Incoming:
    """One tensor that a peer sends at this site: one of those for everyone, or one for this rank only."""

    peer: int
    shape: tuple[int, ...]
    everyone: bool


@dataclass(frozen=True)
class _RecordedTrade:
    """What was traded at a site, kept from the first evaluation that publishes until the buffers are allocated."""

    outgoing: tuple[Outgoing, ...]
    incoming: tuple[Incoming, ...]
    received: list[Tensor]
    total_bytes: int | None

    def weight_bytes(self) -> int:
        """A measure of size that is equal on all ranks, although patches and numbers of neighbours differ."""
        if self.total_bytes is not None:
            return self.total_bytes
        sent = [(out.everyone, out.tensor.nbytes) for out in self.outgoing]
        received = [(part.everyone, tensor.nbytes) for part, tensor in zip(self.incoming, self.received, strict=True)]
        everyones = sum(size for everyone, size in sent + received if everyone)
        return everyones + max((size for everyone, size in sent + received if not everyone), default=0)


@dataclass(frozen=True)
class _Site:
    bucket: "_Bucket"
    sent: list[Tensor]  # views into the bucket's send buffers, one per outgoing tensor
    received: list[Tensor]  # views into its receive buffers, one per incoming tensor
    closes_bucket: bool


@dataclass
class _Bucket:
    sends: list[p2p.Message]
    receives: list[p2p.Message]
    pending: list[Any]

    def wait(self, axis: Axis) -> None:
        p2p.finish(axis, self.pending)
        self.pending = []


class Exchange:
    """Buffers and messages of one network, for one shape, on one axis.

    Attributes:
        buffer_bytes: held by send and receive buffers; 0 until the first evaluation that publishes, then fixed.
    """

    def __init__(self, axis: Axis, *, buckets: int = BUCKETS) -> None:
        self.axis = axis
        self.buffer_bytes = 0
        self._bucket_count = buckets
        self._sites: dict[str, _Site] = {}
        self._buckets: list[_Bucket] = []
        self._recorded: dict[str, _RecordedTrade] = {}

    @contextmanager
    def trade(
        self,
        site: str,
        outgoing: Sequence[Outgoing],
        incoming: Sequence[Incoming],
        evaluation: Evaluation,
        *,
        like: Tensor,
        total_bytes: int | None = None,
    ) -> Iterator[list[Tensor]]:
        """Trade at a site; what the peers sent may be read only within the block.

        All ranks of the axis call it at every site, also those that have nothing to trade.

        Args:
            site: the layer's name.
            outgoing: fresh tensors of this rank; they must not change within the block.
            incoming: what to expect, in the order in which it is wanted.
            evaluation: whether to wait for fresh tensors, or to take those of the evaluation before, which blocks only
                if they are late.
            like: dtype and device of what comes in.
            total_bytes: traded here by all ranks together; needed where ranks trade different amounts.

        Yields:
            One tensor per incoming entry.
        """
        if evaluation.phase is Phase.SYNCHRONOUS:
            received = self.swap(outgoing, incoming, like=like)
            if evaluation.publish:
                self._record(site, _RecordedTrade(tuple(outgoing), tuple(incoming), received, total_bytes))
            yield received
            return
        place = self._sites[site]
        place.bucket.wait(self.axis)
        yield place.received
        if evaluation.publish:
            for view, out in zip(place.sent, outgoing, strict=True):
                view.copy_(out.tensor)
            if place.closes_bucket:
                place.bucket.pending = p2p.post(self.axis, place.bucket.sends, place.bucket.receives)

    def swap(self, outgoing: Sequence[Outgoing], incoming: Sequence[Incoming], *, like: Tensor) -> list[Tensor]:
        """Trade at once, whatever the phase, and keep nothing; blocks."""
        received = [like.new_empty(part.shape) for part in incoming]
        sends = [
            p2p.Message(peer, tensor, SWAP_TAG + out.everyone)
            for out in outgoing
            for tensor in (out.tensor.contiguous(),)
            for peer in out.peers
        ]
        receives = [
            p2p.Message(part.peer, tensor, SWAP_TAG + part.everyone)
            for part, tensor in zip(incoming, received, strict=True)
        ]
        p2p.swap(self.axis, sends, receives)
        return received

    def sent(self, site: str) -> list[Tensor]:
        """This rank's own tensors of the evaluation before; inside a displaced `trade` of that site only."""
        return self._sites[site].sent

    def end_evaluation(self) -> None:
        """Allocate the buffers if this evaluation was the first that published. No communication."""
        if not self._recorded:
            return
        names = list(self._recorded)
        sizes = [self._recorded[name].weight_bytes() for name in names]
        for bucket_names in _even_runs(names, sizes, self._bucket_count):
            self._allocate(bucket_names)

    def drain(self) -> None:
        """Wait for all messages in flight, so that another image can start."""
        for bucket in self._buckets:
            bucket.wait(self.axis)

    def _record(self, site: str, trade: _RecordedTrade) -> None:
        if site in self._recorded:
            raise Unsplittable(site, "layer", "it is called twice in one evaluation")
        place = self._sites.get(site)
        if place is None:
            copies = tuple(replace(out, tensor=out.tensor.clone()) for out in trade.outgoing)
            self._recorded[site] = replace(trade, outgoing=copies)
            return
        for view, out in zip(place.sent, trade.outgoing, strict=True):
            view.copy_(out.tensor)
        for view, tensor in zip(place.received, trade.received, strict=True):
            view.copy_(tensor)

    def _allocate(self, names: list[str]) -> None:
        """Allocate one bucket: a flat buffer per destination and per origin, filled with what the sites have traded."""
        outgoing: dict[tuple[bool, tuple[int, ...]], list[Tensor]] = {}
        incoming: dict[tuple[bool, int], list[Tensor]] = {}
        for name in names:
            trade = self._recorded[name]
            for out in trade.outgoing:
                outgoing.setdefault((out.everyone, out.peers), []).append(out.tensor)
            for part, tensor in zip(trade.incoming, trade.received, strict=True):
                incoming.setdefault((part.everyone, part.peer), []).append(tensor)
        flat_out = {key: _flat(tensors) for key, tensors in outgoing.items()}
        flat_in = {key: _flat(tensors) for key, tensors in incoming.items()}
        tag = p2p.FREE_TAGS + 2 * len(self._buckets)
        bucket = _Bucket(
            sends=[
                p2p.Message(peer, flat, tag + everyone)
                for (everyone, peers), (flat, _) in sorted(flat_out.items(), key=lambda item: item[0])
                for peer in peers
            ],
            receives=[
                p2p.Message(peer, flat, tag + everyone)
                for (everyone, peer), (flat, _) in sorted(flat_in.items(), key=lambda item: item[0])
            ],
            pending=[],
        )
        views_out = {key: iter(views) for key, (_, views) in flat_out.items()}
        views_in = {key: iter(views) for key, (_, views) in flat_in.items()}
        for name in names:
            trade = self._recorded.pop(name)
            self._sites[name] = _Site(
                bucket,
                sent=[next(views_out[out.everyone, out.peers]) for out in trade.outgoing],
                received=[next(views_in[part.everyone, part.peer]) for part in trade.incoming],
                closes_bucket=name == names[-1],
            )
        self._buckets.append(bucket)
        self.buffer_bytes += sum(flat.nbytes for flat, _ in (*flat_out.values(), *flat_in.values()))


class Exchanges:
    """The exchanges of recently used shapes; the least recently used one is dropped with its buffers."""

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._by_shape: OrderedDict[Hashable, Exchange] = OrderedDict()

    def get(self, shape: Hashable, make: Callable[[], Exchange]) -> Exchange:
        """The exchange for a shape, made when it is not there. All ranks must ask in the same order."""
        if shape not in self._by_shape:
            while len(self._by_shape) >= self._capacity:
                self._by_shape.popitem(last=False)
            self._by_shape[shape] = make()
        self._by_shape.move_to_end(shape)
        return self._by_shape[shape]

    def clear(self) -> None:
        """Drop all of them with their buffers; no message may be in flight."""
        self._by_shape.clear()

    @property
    def buffer_bytes(self) -> int:
        return sum(exchange.buffer_bytes for exchange in self._by_shape.values())


def _aligned(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _flat(tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One byte buffer with copies of all tensors, and a view of each, in its own dtype and shape."""
    flat = torch.zeros(sum(map(_aligned, tensors)), dtype=torch.uint8, device=tensors[0].device)
    views, start = [], 0
    for tensor in tensors:
        view = flat[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        views.append(view.copy_(tensor))
        start += _aligned(tensor)
    return flat, views


def _even_runs(names: list[str], sizes: list[int], count: int) -> list[list[str]]:
    """Cut names, in their order, into at most `count` runs of about equal size."""
    total, done = sum(sizes), 0
    runs: list[list[str]] = [[]]
    for name, size in zip(names, sizes, strict=True):
        if runs[-1] and done >= total * len(runs) / count:
            runs.append([])
        runs[-1].append(name)
        done += size
    return runs
