"""The one owner of all buffers that hold other ranks' activations.

A layer trades at its site: it gives tensors for peers and reads what the peers gave at the same site.

- In a synchronous evaluation the trade is immediate and blocks.
- In the last synchronous evaluation before displaced ones, the trades are also noted in their order. When it ends,
  they are divided into a few buckets, and the buckets' buffers are allocated, once, and filled.
- In a displaced evaluation a layer reads what its peers sent in the evaluation before, and its own tensors go into the
  bucket.
- What is displaced with keys and values, and the rest, have buckets of their own: an image may have the rest displaced
  later than they are, and a bucket leaves as a whole.

All messages are posted and waited for at cuts, which a recording of the evaluation leaves to Python.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor

from distri.ranks import p2p
from distri.ranks.buckets import SHARES, SHARES_OF_REST, Bucket, Cut, Scratch, runs_of
from distri.ranks.errors import Unsplittable
from distri.ranks.mesh import Axis
from distri.ranks.phase import Evaluation, Phase
from distri.ranks.rows import Rows, messages
from distri.ranks.sites import Incoming, Outgoing, SharedRows, Site, Trade, allocate

SWAP_TAG = 0  # waited for at once; the tags of buckets, which stay in flight, start at p2p.FREE_TAGS


class Exchange:
    """Buffers and messages of one network, for one shape, on one axis.

    Attributes:
        buffer_bytes: held by send and receive buffers; 0 until the first evaluation that publishes, and fixed when all
            sites have.
        weight_bytes: about the same, and equal on all ranks.
        buckets: in the order in which they are filled; none until then.
        at_cut: called wherever messages are posted or waited for; usually it just does that.
        scratch: where tensors of a swap are put, if not into memory of their own.
    """

    def __init__(self, axis: Axis, *, shares: Sequence[float] = SHARES) -> None:
        self.axis = axis
        self._shares = shares
        self.buffer_bytes = 0
        self.weight_bytes = 0
        self.at_cut: Callable[[Cut], None] = _act
        self.scratch: Scratch | None = None
        self._sites: dict[str, Site] = {}
        self.buckets: list[Bucket] = []
        self._noted: dict[bool, dict[str, Trade | SharedRows]] = {False: {}, True: {}}  # the rest apart
        self._free_tag = p2p.FREE_TAGS

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
                self._note(site, Trade(tuple(outgoing), tuple(incoming), received, total_bytes), evaluation)
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

    @contextmanager
    def share(
        self, site: str, rows: Rows, fill: Callable[[Tensor], None], evaluation: Evaluation, *, like: Tensor
    ) -> Iterator[Tensor]:
        """Everybody's rows side by side, this rank's own fresh; they may be read only within the block.

        Nothing is copied but what `fill` copies: rows arrive where they are read, and leave from there.

        Args:
            site: the layer's name.
            rows: who brings how many; equal on all ranks.
            fill: writes this rank's own rows into the tensor that it is given.
            evaluation: as in `trade`.
            like: dtype and device of the rows.

        Yields:
            A tensor of `rows.whole_shape`, its rows contiguous in themselves, maybe with others in between.
        """
        own = rows.of(self.axis.index)
        if evaluation.phase is Phase.SYNCHRONOUS:
            room = self.scratch.views([rows.whole_shape], like) if self.scratch else [like.new_empty(rows.whole_shape)]
            (whole,) = room
            fill(whole[own])
            sends, receives = messages(rows, whole, self.axis.index, SWAP_TAG + 1)
            if sends:
                act = partial(p2p.swap, self.axis.for_gathers, sends, receives)
                self.at_cut(Cut(act, [whole[own]], [message.tensor for message in receives]))
            if evaluation.publish:
                self._note_rows(site, rows, whole, evaluation)
            yield whole
            return
        place = self._sites[site]
        if place.arrival is not None:
            self.at_cut(place.arrival)
        (whole,) = place.received
        # What was sent from here an evaluation ago has been waited for with what arrived.
        fill(whole[own])
        yield whole
        if evaluation.publish and place.departure is not None:
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
            # Not behind buckets in flight, which one NCCL communicator would serve first.
            self.at_cut(Cut(partial(p2p.swap, self.axis.for_gathers, sends, receives), own, received))
        return received

    @contextmanager
    def cut_by(self, at_cut: Callable[[Cut], None], scratch: Scratch | None = None) -> Iterator[None]:
        """Within the block, leave messages to `at_cut`, and put tensors of swaps into `scratch` if there is one."""
        before = self.at_cut, self.scratch
        self.at_cut, self.scratch = at_cut, scratch
        try:
            yield
        finally:
            self.at_cut, self.scratch = before

    def sent(self, site: str) -> list[Tensor]:
        """This rank's own tensors of the evaluation before; inside a displaced `trade` of that site only."""
        return self._sites[site].sent

    def end_evaluation(self) -> None:
        """Allocate buffers for the sites that published for the first time. No communication."""
        for noted, shares in ((self._noted[False], self._shares), (self._noted[True], SHARES_OF_REST)):
            sizes = [one.weight_bytes() for one in noted.values()]
            self.weight_bytes += sum(sizes)
            for run in runs_of(list(noted), sizes, shares):
                allocated = allocate(self.axis, {name: noted.pop(name) for name in run}, self._free_tag)
                self.buckets.append(allocated.bucket)
                self._sites |= allocated.sites
                self.buffer_bytes += allocated.buffer_bytes
                self._free_tag += allocated.tags

    def drain(self) -> None:
        """Wait for all messages in flight, so that another image can start."""
        for bucket in self.buckets:
            bucket.wait()

    def _note_rows(self, site: str, rows: Rows, whole: Tensor, evaluation: Evaluation) -> None:
        self._refuse_twice(site)
        if (place := self._sites.get(site)) is not None:
            place.received[0].copy_(whole)
        else:
            self._noted[evaluation.is_rest][site] = SharedRows(rows, whole if self.scratch is None else whole.clone())

    def _refuse_twice(self, site: str) -> None:
        if any(site in noted for noted in self._noted.values()):
            raise Unsplittable(site, "layer", "it is called twice in one evaluation")

    def _note(self, site: str, trade: Trade, evaluation: Evaluation) -> None:
        self._refuse_twice(site)
        place = self._sites.get(site)
        if place is None:
            copies = tuple(replace(out, tensor=out.tensor.clone()) for out in trade.outgoing)
            self._noted[evaluation.is_rest][site] = replace(trade, outgoing=copies)
            return
        for view, out in zip(place.sent, trade.outgoing, strict=True):
            view.copy_(out.tensor)
        for view, tensor in zip(place.received, trade.received, strict=True):
            view.copy_(tensor)


def _act(cut: Cut) -> None:
    cut.act()
