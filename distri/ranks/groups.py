"""The process groups of a mesh, and their NCCL communicators, made before anything is captured or measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class AxisGroups:
    """The groups of one axis; an axis of one rank has none.

    Attributes:
        messages: for what layers exchange.
        gathers: for what must not queue behind messages in flight, since the messages of one NCCL communicator are
            served in order. On gloo, which serves them as they come, it is the same group.
    """

    messages: Any = None
    gathers: Any = None


def make_groups(
    sets: Iterable[tuple[int, ...]], rank: int, device: torch.device, timeout: timedelta
) -> dict[tuple[int, ...], AxisGroups]:
    """The groups of these sets of ranks. All ranks call it with the same sets; blocks until all members have.

    Every rank makes every group in one order, whether or not it is a member: torch.distributed asks for that.
    """
    groups: dict[tuple[int, ...], AxisGroups] = {}
    for ranks in sets:
        if len(ranks) == 1 or ranks in groups:
            continue
        made = [dist.new_group(list(ranks), timeout=timeout) for _ in range(2 if device.type == "cuda" else 1)]
        groups[ranks] = AxisGroups(made[0], made[-1])
        if device.type == "cuda" and rank in ranks:
            for group in made:
                _connect(group, [one for one in ranks if one != rank], device)
    return groups


def _connect(group: Any, others: Sequence[int], device: torch.device) -> None:
    """Make a group's NCCL communicator and all its connections; blocks on all members.

    NCCL makes a communicator with a group's first message, which needs all members, and the connection of a pair with
    its first; both allocate memory and block. Later messages, which may concern a few ranks only, find all there.
    """
    dist.all_reduce(torch.zeros(1, device=device), group=group)
    sent, received = torch.zeros(2, len(others), device=device)
    pairs = [dist.P2POp(dist.isend, tensor, peer, group) for peer, tensor in zip(others, sent, strict=True)]
    pairs += [dist.P2POp(dist.irecv, tensor, peer, group) for peer, tensor in zip(others, received, strict=True)]
    for work in dist.batch_isend_irecv(pairs):
        work.wait()
    torch.cuda.synchronize(device)
