"""The ranks of a pod and how they are used: data x cfg x patch. Only this module asks for ranks and groups."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist

from distri.ranks.errors import LayoutError
from distri.ranks.missing_ranks import RollCall, name_missing

ROLL_CALL_GRACE = timedelta(seconds=5)


@dataclass(frozen=True)
class Layout:
    """How many ranks share each kind of work; the product is the number of ranks.

    Attributes:
        data: replicas, each with images of its own.
        cfg: 2 when the halves of classifier-free guidance have ranks of their own, else 1.
        patch: ranks that share one image.
    """

    data: int
    cfg: int
    patch: int

    def __post_init__(self) -> None:
        if self.data < 1 or self.patch < 1:
            raise LayoutError(f"layout {self}: data and patch must be at least 1")
        if self.cfg not in (1, 2):
            raise LayoutError(f"layout {self}: cfg must be 1 or 2, guidance has two halves")

    def __str__(self) -> str:
        return f"{self.data}x{self.cfg}x{self.patch}"

    @property
    def ranks(self) -> int:
        return self.data * self.cfg * self.patch

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Read `data x cfg x patch` as in "1x2x4"."""
        parts = text.strip().lower().split("x")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise LayoutError(f'layout {text!r}: wanted data x cfg x patch, as in "1x2x4"')
        return cls(*(int(part) for part in parts))


class TrafficCounter:
    """Counts what this rank has sent, and how long its computing stood still for messages, since the mesh was made.

    Attributes:
        sent_bytes: payload, each receiver counted.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.sent_bytes = 0
        self._cuda = device is not None and device.type == "cuda"
        self._stalled_s = 0.0
        self._stalls: list[tuple[Any, Any]] = []  # CUDA events

    @contextmanager
    def time_stalls(self) -> Iterator[None]:
        """Within the block this rank waits for messages: the process on gloo, its CUDA stream on NCCL."""
        if self._cuda:
            event: Any = torch.cuda.Event
            before, after = event(enable_timing=True), event(enable_timing=True)
            before.record()
            yield
            after.record()
            self._stalls.append((before, after))
        else:
            began = time.perf_counter()
            yield
            self._stalled_s += time.perf_counter() - began

    def stalled_s(self) -> float:
        """Seconds of exposed communication so far; on CUDA only after a synchronisation."""
        while self._stalls:
            before, after = self._stalls.pop()
            self._stalled_s += before.elapsed_time(after) / 1000
        return self._stalled_s


class AxisName(Enum):
    """What the ranks of an axis share."""

    REPLICA = "replica"  # an image, both halves of guidance
    PATCH = "patch"  # one half of an image
    ALONE = "alone"  # nothing: one rank


@dataclass(frozen=True)
class Axis:
    """Ranks that share some work, seen from one of them.

    Attributes:
        name: what they share.
        ranks: their global ranks, in the order of the work.
        index: this rank's place among them.
        group: their process group; None on an axis of one, which never communicates.
        traffic: where bytes sent are counted.
        roll_call: tells which of them is missing when a message fails.
    """

    name: AxisName
    ranks: tuple[int, ...]
    index: int
    group: Any = field(repr=False)
    traffic: TrafficCounter = field(repr=False, compare=False)
    roll_call: RollCall | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        return len(self.ranks)

    @property
    def others(self) -> tuple[int, ...]:
        """Places of the other ranks."""
        return tuple(index for index in range(self.size) if index != self.index)

    def first(self, count: int) -> "Axis | None":
        """The first so many of these ranks, or None on a rank that is not among them."""
        if self.index >= count:
            return None
        return self if count == self.size else replace(self, ranks=self.ranks[:count])


class Mesh:
    """This process's place in a layout.

    Attributes:
        layout: data x cfg x patch.
        device: where this rank computes.
        data_index, cfg_index: this rank's replica, and its half of guidance.
        patch: the ranks that share one half of one image.
        replica: all ranks that share one image; the halves one after the other, patches in order within each.
        alone: an axis of this rank only.
        traffic: bytes sent.
    """

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        rank: int,
        groups: dict[tuple[int, ...], Any],
        roll_call: RollCall | None = None,
    ) -> None:
        self.layout = layout
        self.device = device
        self.rank = rank
        self.traffic = TrafficCounter(device)
        self.data_index, within = divmod(rank, layout.cfg * layout.patch)
        self.cfg_index = within // layout.patch
        self._groups = groups
        self._roll_call = roll_call
        replica_ranks, patch_ranks = _replica(layout, self.data_index), _half(layout, self.data_index, self.cfg_index)
        self.replica = self._axis(AxisName.REPLICA, replica_ranks)
        self.patch = self._axis(AxisName.PATCH, patch_ranks)
        self.alone = self._axis(AxisName.ALONE, (rank,))

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> "Mesh":
        """A mesh of one process, without torch.distributed."""
        return cls(Layout(1, 1, 1), torch.device(device), 0, {})

    @classmethod
    def join(cls, layout: Layout, *, device: torch.device | str, timeout: timedelta) -> "Mesh":
        """Meet the other ranks and make all groups; blocks until all are there.

        Ranks, world size and the meeting point come from the environment, as torchrun sets it; a process group that
        exists already is used. Messages between CPU tensors go through gloo, between CUDA tensors through NCCL.

        Args:
            layout: must have as many ranks as there are processes.
            device: "cpu", or "cuda" for the GPU of torchrun's LOCAL_RANK.
            timeout: how long any collective may wait for its peers.

        Raises:
            LayoutError: the layout has another number of ranks. All ranks raise it.
        """
        kind = torch.device(device).type
        if not dist.is_initialized():
            world = int(os.environ.get("WORLD_SIZE", "1"))
            if world == 1 and layout.ranks == 1:
                return cls.single(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=timeout)
        if dist.get_world_size() != layout.ranks:
            raise LayoutError(f"layout {layout} has {layout.ranks} ranks, but {dist.get_world_size()} are running")
        if kind == "cuda":
            own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(own)
        else:
            own = torch.device("cpu")
        # One order on all ranks, whether or not a rank is a member: torch.distributed asks for that.
        groups: dict[tuple[int, ...], Any] = {}
        for data in range(layout.data):
            for ranks in (_replica(layout, data), *(_half(layout, data, cfg) for cfg in range(layout.cfg))):
                if len(ranks) > 1 and ranks not in groups:
                    groups[ranks] = dist.new_group(list(ranks), timeout=timeout)
                    if kind == "cuda" and dist.get_rank() in ranks:
                        # NCCL makes a group's communicator with its first message, which needs all members; later
                        # ones may concern a few of them.
                        dist.all_reduce(torch.zeros(1, device=own), group=groups[ranks])
        # torch.distributed has no public name for the store that the ranks met in.
        store = dist.distributed_c10d._get_default_store()
        roll_call = RollCall(store, dist.get_rank(), grace=min(ROLL_CALL_GRACE, timeout))
        return cls(layout, own, dist.get_rank(), groups, roll_call)

    def leave(self) -> None:
        """End all groups; the mesh is of no use afterwards."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_leader(self) -> bool:
        """Whether this rank is the first of its replica, which decides for all of them."""
        return self.replica.index == 0

    def broadcast_int(self, value: int) -> int:
        """The leader's number, on all ranks of its replica; blocks. What the others pass is ignored."""
        if self.replica.size == 1:
            return value
        value_1 = torch.tensor([value], dtype=torch.int64)
        self._broadcast(value_1)
        return int(value_1.item())

    def broadcast_bytes(self, payload: bytes) -> bytes:
        """The leader's bytes, on all ranks of its replica; blocks. What the others pass is ignored."""
        if self.replica.size == 1:
            return payload
        size = self.broadcast_int(len(payload))
        if size == 0:
            return b""
        data = torch.empty(size, dtype=torch.uint8)
        if self.is_leader:
            data.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        self._broadcast(data)
        return data.numpy().tobytes()

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's JSON-able value, by rank of the pod, on rank 0; nothing elsewhere. Blocks."""
        if self.layout.ranks == 1:
            return [value]
        values: list[Any] | None = [None] * self.layout.ranks if self.rank == 0 else None
        with name_missing(self._roll_call, range(self.layout.ranks)):
            dist.gather_object(value, values, dst=0)
        return values or []

    def _broadcast(self, tensor: torch.Tensor) -> None:
        with name_missing(self._roll_call, self.replica.ranks):
            dist.broadcast(tensor, src=self.replica.ranks[0], group=self.replica.group)
        if self.is_leader:
            self.traffic.sent_bytes += tensor.nbytes * (self.replica.size - 1)

    def _axis(self, name: AxisName, ranks: tuple[int, ...]) -> Axis:
        return Axis(name, ranks, ranks.index(self.rank), self._groups.get(ranks), self.traffic, self._roll_call)


def _replica(layout: Layout, data: int) -> tuple[int, ...]:
    size = layout.cfg * layout.patch
    return tuple(range(data * size, (data + 1) * size))


def _half(layout: Layout, data: int, cfg: int) -> tuple[int, ...]:
    start = (data * layout.cfg + cfg) * layout.patch
    return tuple(range(start, start + layout.patch))


def default_layout(ranks: int) -> Layout:
    """Lowest latency for one guided image: the halves of guidance apart where the ranks are even, patches otherwise."""
    cfg = 2 if ranks % 2 == 0 else 1
    return Layout(data=1, cfg=cfg, patch=ranks // cfg)


def axis_of_one(rank: int = 0) -> Axis:
    """An axis of one rank outside any mesh."""
    return Axis(AxisName.ALONE, (rank,), 0, None, TrafficCounter())
