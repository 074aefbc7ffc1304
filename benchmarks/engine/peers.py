"""Peers that are not there: what stands in the place of `p2p.post` where one rank of N is measured alone."""

from collections.abc import Sequence
from typing import Any

from distri.ranks.mesh import Axis
from distri.ranks.p2p import Message


def no_messages(axis: Axis, sends: Sequence[Message], receives: Sequence[Message]) -> list[Any]:
    """The exchange switched off: what was received stays as it was."""
    return []


def zeros(axis: Axis, sends: Sequence[Message], receives: Sequence[Message]) -> list[Any]:
    """Peers that send nothing but zeros: what is compared has to be numbers, not what lay in memory."""
    for message in receives:
        message.tensor.zero_()
    return []
