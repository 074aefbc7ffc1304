"""The one owner of all buffers that hold other ranks' activations.

A layer trades at its site: it gives tensors for peers and reads what the peers gave at the same site.

- In a synchronous evaluation the trade is immediate and blocks.
- In the last synchronous evaluation before displaced ones, the trades are also noted in their order. When it ends,
  they are divided into a few buckets, and the buckets' buffers are allocated, once, and filled.
- In a displaced evaluation a layer reads what its peers sent in the evaluation before, and its own tensors go into the
  bucket.

All messages are posted and waited for at cuts, which a recording of the evaluation leaves to Python.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from distri.ranks import p2p
from distri.ranks.buckets import SHARES, Bucket, Cut, Scratch, flat, runs_of
from distri.ranks.errors import Unsplittable
from distri.ranks.mesh import Axis
from distri.ranks.phase import Evaluation, Phase

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
class _Trade:
    """What was traded at a site, noted from the first evaluation that publishes until the buffers are allocated."""

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
    sent: list[Tensor]  # views into its bucket's send buffers, one per outgoing tensor
    received: list[Tensor]  # views into its receive buffers, one per incoming tensor
    arrival: Cut | None  # before the first site of a bucket
    departure: Cut | None  # after the last one


class Exchange:
    """Buffers and messages of one network, for one shape, on one axis.

    Attributes:
        buffer_bytes: held by send and receive buffers; 0 until the first evaluation that publishes, then fixed.
        buckets: in the order in which they are filled; none until then.
        at_cut: called wherever messages are posted or waited for; usually it just does that.
        scratch: where tensors of a swap are put, if not into memory of their own.
    """

    def __init__(self, axis: Axis, *, shares: Sequence[float] = SHARES) -> None:
        self.axis = axis
        self._shares = shares
        self.buffer_bytes = 0
        self.at_cut: Callable[[Cut], None] = _act
        self.scratch: Scratch | None = None
        self._sites: dict[str, _Site] = {}
        self.buckets: list[Bucket] = []
        self._noted: dict[str, _Trade] = {}

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
                self._note(site, _Trade(tuple(outgoing), tuple(incoming), received, total_bytes))
            yield received
            return
        place = self._sites[site]
        if place.arrival is not None:
            self.at_cut(place.arrival)
        yield place.received
        if evaluation.publish:
            for view, out in zip(place.sent, outgoing, strict=True):
                view.copy_(out.tensor)
            if place.departure is not None:
                self.at_cut(place.departure)

    def swap(self, outgoing: Sequence[Outgoing], incoming: Sequence[Incoming], *, like: Tensor) -> list[Tensor]:
        """Trade at once, whatever the phase, and keep nothing; blocks."""
        own = [out.tensor.contiguous() for out in outgoing]
        if self.scratch is None:
            received = [like.new_empty(part.shape) for part in incoming]
        else:
            places = self.scratch.views([*(tensor.shape for tensor in own), *(part.shape for part in incoming)], like)
            own = [place.copy_(tensor) for place, tensor in zip(places, own, strict=False)]
            received = places[len(own) :]
        sends = [
            p2p.Message(peer, tensor, SWAP_TAG + out.everyone)
            for out, tensor in zip(outgoing, own, strict=True)
            for peer in out.peers
        ]
        receives = [
            p2p.Message(part.peer, tensor, SWAP_TAG + part.everyone)
            for part, tensor in zip(incoming, received, strict=True)
        ]
        if sends or receives:
            self.at_cut(Cut(partial(p2p.swap, self.axis, sends, receives), own, received))
        return received

    def sent(self, site: str) -> list[Tensor]:
        """This rank's own tensors of the evaluation before; inside a displaced `trade` of that site only."""
        return self._sites[site].sent

    def end_evaluation(self) -> None:
        """Allocate the buffers if this evaluation was the first that published. No communication."""
        if not self._noted:
            return
        names = list(self._noted)
        sizes = [self._noted[name].weight_bytes() for name in names]
        for bucket_names in runs_of(names, sizes, self._shares):
            self._allocate(bucket_names)

    def drain(self) -> None:
        """Wait for all messages in flight, so that another image can start."""
        for bucket in self.buckets:
            bucket.wait()

    def _note(self, site: str, trade: _Trade) -> None:
        if site in self._noted:
            raise Unsplittable(site, "layer", "it is called twice in one evaluation")
        place = self._sites.get(site)
        if place is None:
            copies = tuple(replace(out, tensor=out.tensor.clone()) for out in trade.outgoing)
            self._noted[site] = replace(trade, outgoing=copies)
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
            trade = self._noted[name]
            for out in trade.outgoing:
                outgoing.setdefault((out.everyone, out.peers), []).append(out.tensor)
            for part, tensor in zip(trade.incoming, trade.received, strict=True):
                incoming.setdefault((part.everyone, part.peer), []).append(tensor)
        flat_out = {key: flat(tensors) for key, tensors in outgoing.items()}
        flat_in = {key: flat(tensors) for key, tensors in incoming.items()}
        tag = p2p.FREE_TAGS + 2 * len(self.buckets)
        bucket = Bucket(
            self.axis,
            sends=[
                p2p.Message(peer, whole, tag + everyone)
                for (everyone, peers), (whole, _) in sorted(flat_out.items(), key=lambda item: item[0])
                for peer in peers
            ],
            receives=[
                p2p.Message(peer, whole, tag + everyone)
                for (everyone, peer), (whole, _) in sorted(flat_in.items(), key=lambda item: item[0])
            ],
            views=(
                [view for _, views in flat_out.values() for view in views],
                [view for _, views in flat_in.values() for view in views],
            ),
        )
        arrival, departure = (None, None) if bucket.empty else (bucket.arrival, bucket.departure)
        views_out = {key: iter(views) for key, (_, views) in flat_out.items()}
        views_in = {key: iter(views) for key, (_, views) in flat_in.items()}
        for name in names:
            trade = self._noted.pop(name)
            self._sites[name] = _Site(
                sent=[next(views_out[out.everyone, out.peers]) for out in trade.outgoing],
                received=[next(views_in[part.everyone, part.peer]) for part in trade.incoming],
                arrival=arrival if name == names[0] else None,
                departure=departure if name == names[-1] else None,
            )
        self.buckets.append(bucket)
        self.buffer_bytes += sum(whole.nbytes for whole, _ in (*flat_out.values(), *flat_in.values()))


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


def _act(cut: Cut) -> None:
    cut.act()
