"""Messages from rank to rank along an axis, each byte counted.

Point to point throughout, because patches differ in size and halos concern two neighbours only. gloo and NCCL take the
same calls; tags keep messages in flight apart on gloo, the common order of calls does on NCCL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distri.ranks.mesh import Axis, Mesh
from distri.ranks.missing_ranks import name_missing

FREE_TAGS = 16  # tags below are for messages that are waited for at once
GATHER_TAG = 2


@dataclass(frozen=True)
class Message:
    """A contiguous tensor to send to a peer or to fill from it; `peer` is a place on the axis."""

    peer: int
    tensor: Tensor
    tag: int


def post(axis: Axis, sends: Sequence[Message], receives: Sequence[Message]) -> list[Any]:
    """Start messages and return at once.

    All of them are one group call, in one order on all ranks: by peer, by tag, and as they were given. So between two
    ranks the k-th message sent is the k-th received, which is what NCCL goes by, if both give those of one tag in one
    order; within a group call nothing waits for anything else. Messages of nothing are left out on both sides.

    Tensors sent must stay as they are, and tensors received must not be read, until every handle returned has been
    waited for.
    """
    operations = [
        dist.P2POp(operation, message.tensor, axis.ranks[message.peer], axis.group, message.tag)
        for operation, messages in ((dist.isend, sends), (dist.irecv, receives))
        for message in in_order(messages)
    ]
    axis.traffic.sent_bytes += sum(message.tensor.nbytes for message in sends)
    if not operations:
        return []
    with name_missing(axis.witness, axis.ranks):
        return list(dist.batch_isend_irecv(operations))


def in_order(messages: Sequence[Message]) -> list[Message]:
    """The order in which messages of one direction are given to torch.distributed."""
    return sorted((one for one in messages if one.tensor.nbytes), key=lambda one: (one.peer, one.tag))


def finish(axis: Axis, pending: Sequence[Any]) -> None:
    """Wait for what `post` has started; the first message that fails raises PeerLost. Blocks on gloo.

    On NCCL it makes the stream wait and returns; `axis.progress` notes both.
    """
    if not pending:
        return
    with name_missing(axis.witness, axis.ranks), axis.progress.waiting(f"messages of the {axis.name.value} axis"):
        for work in pending:
            work.wait()


def swap(axis: Axis, sends: Sequence[Message], receives: Sequence[Message]) -> None:
    """Exchange messages and wait for all of them."""
    finish(axis, post(axis, sends, receives))


def gather(axis: Axis, own: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Every rank's tensor, on every rank of the axis, in the order of the axis; blocks.

    Args:
        own: this rank's tensor, of shape `shapes[axis.index]`.
        shapes: each rank's shape; they may differ. A rank whose tensor holds nothing sends nothing.
    """
    own = own.contiguous()
    parts = [own if place == axis.index else own.new_empty(shape) for place, shape in enumerate(shapes)]
    swap(
        axis.for_gathers,
        [Message(peer, own, GATHER_TAG) for peer in axis.others],
        [Message(peer, parts[peer], GATHER_TAG) for peer in axis.others],
    )
    return parts


def collect(axis: Axis, own: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Every rank's tensor on the first rank of the axis, in the order of the axis; nothing elsewhere. Blocks."""
    own = own.contiguous()
    if axis.index != 0:
        swap(axis.for_gathers, [Message(0, own, GATHER_TAG)], [])
        return []
    parts = [own, *(torch.empty(shape, dtype=own.dtype, device=own.device) for shape in shapes[1:])]
    swap(axis.for_gathers, [], [Message(peer, parts[peer], GATHER_TAG) for peer in axis.others])
    return parts


def hand_on(axis: Axis, tensors: Sequence[Tensor]) -> None:
    """Fill contiguous tensors from the first rank of the axis, on all others; blocks."""
    if axis.index == 0:
        swap(axis, [Message(peer, tensor, GATHER_TAG) for tensor in tensors for peer in axis.others], [])
    else:
        swap(axis, [], [Message(0, tensor, GATHER_TAG) for tensor in tensors])


def least(mesh: Mesh, own: int) -> int:
    """The least number of all ranks of the replica, on all of them; blocks, through gloo."""
    numbers = collect(mesh.replica, torch.tensor([own], dtype=torch.int64), [(1,)] * mesh.replica.size)
    return mesh.broadcast_int(min((int(number.item()) for number in numbers), default=own))


def all_agree(mesh: Mesh, axis: Axis, own: bool) -> bool:
    """Whether all ranks of the leader's axis say yes, on all ranks of the replica; blocks, through gloo."""
    flag = torch.tensor([own], dtype=torch.uint8)
    flags = collect(axis, flag, [(1,)] * axis.size)
    return bool(mesh.broadcast_int(int(all(bool(flag.item()) for flag in flags))))
