"""What layers give and take at their sites, and the buffers that are made of it, bucket by bucket."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.ranks.buckets import Bucket, Cut, flat
from distri.ranks.mesh import Axis
from distri.ranks.p2p import Message
from distri.ranks.rows import Rows, interleaved, messages


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
class Trade:
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
class SharedRows:
    """What was shared at a site, noted likewise."""

    rows: Rows
    whole: Tensor

    def weight_bytes(self) -> int:
        """Equal on all ranks, whatever share of the rows is theirs."""
        return self.whole.nbytes


@dataclass(frozen=True)
class Site:
    """Where a site reads and writes from then on."""

    sent: list[Tensor]  # views into its bucket's send buffers, one per outgoing tensor
    received: list[Tensor]  # views into its receive buffers, one per incoming tensor
    arrival: Cut | None  # before the first site of a bucket
    departure: Cut | None  # after the last one


@dataclass(frozen=True)
class Allocated:
    """One bucket with its sites.

    Attributes:
        bucket: what is posted and waited for.
        sites: by name.
        buffer_bytes: of all its buffers.
        tags: how many it uses, from the one that was given.
    """

    bucket: Bucket
    sites: dict[str, Site]
    buffer_bytes: int
    tags: int


def allocate(axis: Axis, noted: Mapping[str, Trade | SharedRows], tag: int) -> Allocated:
    """A bucket for some sites, in their order, filled with what they have traded and shared. No communication.

    That is a flat buffer per destination and per origin for what is traded, and one for all rows that are cut alike.
    """
    trades = {name: one for name, one in noted.items() if isinstance(one, Trade)}
    outgoing: dict[tuple[bool, tuple[int, ...]], list[Tensor]] = {}
    incoming: dict[tuple[bool, int], list[Tensor]] = {}
    for trade in trades.values():
        for out in trade.outgoing:
            outgoing.setdefault((out.everyone, out.peers), []).append(out.tensor)
        for part, tensor in zip(trade.incoming, trade.received, strict=True):
            incoming.setdefault((part.everyone, part.peer), []).append(tensor)
    flat_out = {key: flat(tensors) for key, tensors in outgoing.items()}
    flat_in = {key: flat(tensors) for key, tensors in incoming.items()}
    sends = [
        Message(peer, whole, tag + everyone)
        for (everyone, peers), (whole, _) in sorted(flat_out.items(), key=lambda item: item[0])
        for peer in peers
    ]
    receives = [
        Message(peer, whole, tag + everyone)
        for (everyone, peer), (whole, _) in sorted(flat_in.items(), key=lambda item: item[0])
    ]
    sent = [view for _, views in flat_out.values() for view in views]
    received = [view for _, views in flat_in.values() for view in views]
    buffers = [whole for whole, _ in (*flat_out.values(), *flat_in.values())]

    alike: dict[tuple[Rows, torch.dtype], dict[str, Tensor]] = {}
    for name, one in noted.items():
        if isinstance(one, SharedRows):
            alike.setdefault((one.rows, one.whole.dtype), {})[name] = one.whole
    shared: dict[str, Tensor] = {}
    for number, ((rows, _), wholes) in enumerate(alike.items()):
        together, views = interleaved(list(wholes.values()))
        shared |= zip(wholes, views, strict=True)
        own, others = messages(rows, together, axis.index, tag + 2 + number)
        sends, receives = sends + own, receives + others
        sent.append(together[rows.of(axis.index)])
        received += [message.tensor for message in others]
        buffers.append(together)

    bucket = Bucket(axis, sends, receives, views=(sent, received))
    arrival, departure = (None, None) if bucket.empty else (bucket.arrival, bucket.departure)
    views_out = {key: iter(views) for key, (_, views) in flat_out.items()}
    views_in = {key: iter(views) for key, (_, views) in flat_in.items()}
    names, sites = list(noted), {}
    for name in names:
        if name in trades:
            own_views = [next(views_out[out.everyone, out.peers]) for out in trades[name].outgoing]
            others_views = [next(views_in[part.everyone, part.peer]) for part in trades[name].incoming]
        else:
            own_views, others_views = [], [shared[name]]
        sites[name] = Site(
            sent=own_views,
            received=others_views,
            arrival=arrival if name == names[0] else None,
            departure=departure if name == names[-1] else None,
        )
    return Allocated(bucket, sites, sum(buffer.nbytes for buffer in buffers), tags=2 + len(alike))
