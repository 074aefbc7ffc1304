"""Tensors of peers as residuals: what differs from what the receiver has, in few bits, at once.

The third way to exchange (CompactFusion, arXiv 2507.17511): between exact, which sends all of it, and displaced, which
is an evaluation late. What the code has lost is part of the next residual, so an error is made up for and not added up.
"""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor

from distri.ranks.exchange import Exchange
from distri.ranks.phase import Evaluation, Phase
from distri.ranks.sites import Incoming, Outgoing
from distri.ranks.ternary import code_bytes, decoded, encoded


class Keep(Enum):
    """What a layer does with the tensors of its peers in an evaluation."""

    NOTHING = "nothing"  # they are sent whole, and nobody needs them later
    BASE = "base"  # they are sent whole, and are what the next residuals are added to
    RESIDUAL = "residual"  # they are sent as residuals

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Keep":
        """That of an evaluation which would be displaced, or would send what a displaced one reads, if it were so."""
        if evaluation.phase is Phase.DISPLACED:
            return cls.RESIDUAL
        return cls.BASE if evaluation.publish else cls.NOTHING


class Residuals:
    """What each rank has of the others, at all sites of one network for one shape.

    Attributes:
        held_bytes: by what is kept, on this rank.
    """

    def __init__(self) -> None:
        self._sites: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    @property
    def held_bytes(self) -> int:
        return sum(tensor.nbytes for own, others in self._sites.values() for tensor in (*own, *others))

    def keep(self, site: str, own: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Begin with what was sent and received whole; no communication."""
        self._sites[site] = [one.clone() for one in own], [one.clone() for one in others]

    def swap(self, exchange: Exchange, site: str, own: Sequence[Tensor], peers: Sequence[int]) -> list[Tensor]:
        """Send what is new of this rank's tensors, and return those of the peers, as they now stand. Blocks.

        Args:
            exchange: whose axis it is.
            site: where they were kept.
            own: as they are now, BTC, as many as were kept.
            peers: places on the axis whose tensors were kept, in their order; each has as many as this rank.

        Returns:
            Tensors of the peers, in the order in which they were kept; they may be read until the next swap.
        """
        held, others = self._sites[site]
        codes = [encoded(now.float() - before.float()) for now, before in zip(own, held, strict=True)]
        for before, code in zip(held, codes, strict=True):
            _add(before, code)
        incoming = [
            Incoming(peers[place // len(own)], (*tensor.shape[:-1], code_bytes(tensor.shape[-1])), everyone=True)
            for place, tensor in enumerate(others)
        ]
        received = exchange.swap(
            [Outgoing(tuple(peers), code, everyone=True) for code in codes], incoming, like=codes[0]
        )
        for before, code in zip(others, received, strict=True):
            _add(before, code)
        return others


def _add(before: Tensor, code: Tensor) -> None:
    """The same operations where it was encoded and where it has arrived, so that both have the same bits."""
    before.copy_((before.float() + decoded(code, before.shape[-1])).to(before.dtype))


def sent_bytes(channels: int, tokens: int, *, batch: int, receivers: int) -> int:
    """What one rank sends of its keys and values in an evaluation whose residuals are sent."""
    return receivers * 2 * batch * tokens * code_bytes(channels)
