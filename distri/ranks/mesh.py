"""The ranks of a pod and how they are used: data x cfg x patch. Only this module asks for ranks and groups."""

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist

from distri.ranks.device_errors import raise_device_failures
from distri.ranks.errors import LayoutError, PeerLost
from distri.ranks.groups import AxisGroups, make_groups
from distri.ranks.heartbeat import Heartbeat
from distri.ranks.memory import DeviceMemory, Memory
from distri.ranks.missing_ranks import Witness, name_missing
from distri.ranks.progress import Progress


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

    def replica(self, data: int) -> tuple[int, ...]:
        """The ranks of a replica: the halves one after the other, patches in order within each."""
        size = self.cfg * self.patch
        return tuple(range(data * size, (data + 1) * size))

    def half(self, data: int, cfg: int) -> tuple[int, ...]:
        """The ranks of one half of a replica."""
        start = (data * self.cfg + cfg) * self.patch
        return tuple(range(start, start + self.patch))

    @property
    def sets(self) -> list[tuple[int, ...]]:
        """The ranks of every axis, in one order."""
        halves = [(data, cfg) for data in range(self.data) for cfg in range(self.cfg)]
        return [*map(self.replica, range(self.data)), *(self.half(data, cfg) for data, cfg in halves)]

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Read `data x cfg x patch` as in "1x2x4"."""
        parts = text.strip().lower().split("x")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise LayoutError(f'layout {text!r}: wanted data x cfg x patch, as in "1x2x4"')
        return cls(*(int(part) for part in parts))


@dataclass
class TrafficCounter:
    """What this rank has sent since the mesh was made: `sent_bytes` of payload, each receiver counted."""

    sent_bytes: int = 0


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
        progress: where waits are noted.
        witness: tells which of them is missing when a message fails.
        gather_group: the same ranks once more, for what must not queue behind messages in flight: the messages of one
            NCCL communicator are served in order. None is `group`.
    """

    name: AxisName
    ranks: tuple[int, ...]
    index: int
    group: Any = field(repr=False)
    traffic: TrafficCounter = field(repr=False, compare=False)
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)
    witness: Witness | None = field(default=None, repr=False, compare=False)
    gather_group: Any = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return len(self.ranks)

    @property
    def others(self) -> tuple[int, ...]:
        """Places of the other ranks."""
        return tuple(index for index in range(self.size) if index != self.index)

    @property
    def for_gathers(self) -> "Axis":
        """The same ranks, their messages in the other group."""
        return self if self.gather_group is None else replace(self, group=self.gather_group)

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
        progress: how far this rank is, and how long it stood still for messages.
        memory: of its device; None where it is not measured, as on a CPU.
    """

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        rank: int,
        groups: Mapping[tuple[int, ...], AxisGroups],
        *,
        progress: Progress,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.layout = layout
        self.device = device
        self.rank = rank
        self.traffic = TrafficCounter()
        self.progress = progress
        self.memory: Memory | None = DeviceMemory(device) if device.type == "cuda" else None
        self.data_index, within = divmod(rank, layout.cfg * layout.patch)
        self.cfg_index = within // layout.patch
        self._groups = groups
        self._heartbeat = heartbeat
        replica_ranks, patch_ranks = layout.replica(self.data_index), layout.half(self.data_index, self.cfg_index)
        self.replica = self._axis(AxisName.REPLICA, replica_ranks)
        self.patch = self._axis(AxisName.PATCH, patch_ranks)
        self.alone = self._axis(AxisName.ALONE, (rank,))

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> "Mesh":
        """A mesh of one process, without torch.distributed."""
        own = torch.device(device)
        return cls(Layout(1, 1, 1), own, 0, {}, progress=Progress.of(own))

    @classmethod
    def join(
        cls,
        layout: Layout,
        *,
        device: torch.device | str,
        timeout: timedelta,
        on_lost: Callable[[PeerLost], None] | None = None,
    ) -> "Mesh":
        """Meet the other ranks and make all groups; blocks until all are there.

        Ranks, world size and the meeting point come from the environment, as torchrun sets it; a process group that
        exists already is used. Messages between CPU tensors go through gloo, between CUDA tensors through NCCL.

        Args:
            layout: must have as many ranks as there are processes.
            device: "cpu", or "cuda" for the GPU of torchrun's LOCAL_RANK.
            timeout: how long any collective may wait for its peers.
            on_lost: called in a thread of its own when ranks or a device come no further, early enough to end the
                process within the timeout. It is the only notice of that on NCCL, whose waits neither block nor raise.
                None writes it into the log.

        Raises:
            LayoutError: the layout has another number of ranks. All ranks raise it.
            PeerLost, GpuFailed, OutOfMemory: the ranks cannot be connected.
        """
        kind = torch.device(device).type
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device("cpu")
        progress = Progress.of(own)

        def watched(store: Any, rank: int) -> Heartbeat:
            name = f"{layout}.{next(_JOINED)}"
            return Heartbeat(store, name, rank, layout.ranks, progress, timeout=timeout, on_lost=on_lost, device=own)

        with raise_device_failures():
            if kind == "cuda":
                torch.cuda.set_device(own)
            if not dist.is_initialized():
                world = int(os.environ.get("WORLD_SIZE", "1"))
                if world == 1 and layout.ranks == 1:
                    heartbeat = watched(None, 0) if kind == "cuda" else None
                    return cls(layout, own, 0, {}, progress=progress, heartbeat=heartbeat)
                dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=timeout)
            if dist.get_world_size() != layout.ranks:
                raise LayoutError(f"layout {layout} has {layout.ranks} ranks, but {dist.get_world_size()} are running")
            heartbeat = watched(dist.distributed_c10d._get_default_store(), dist.get_rank())  # it has no public name
            with name_missing(heartbeat, range(layout.ranks)), progress.waiting_on_host("all ranks to join"):
                groups = make_groups(layout.sets, dist.get_rank(), own, timeout)
        return cls(layout, own, dist.get_rank(), groups, progress=progress, heartbeat=heartbeat)

    def leave(self) -> None:
        """End all groups; the mesh is of no use afterwards."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
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
        everybody = range(self.layout.ranks)
        with name_missing(self._heartbeat, everybody), self.progress.waiting_on_host("what all ranks have noted"):
            dist.gather_object(value, values, dst=0)
        return values or []

    def _broadcast(self, tensor: torch.Tensor) -> None:
        ranks = self.replica.ranks
        with name_missing(self._heartbeat, ranks), self.progress.waiting_on_host("the leader's word"):
            dist.broadcast(tensor, src=ranks[0], group=self.replica.group)
        if self.is_leader:
            self.traffic.sent_bytes += tensor.nbytes * (self.replica.size - 1)

    def _axis(self, name: AxisName, ranks: tuple[int, ...]) -> Axis:
        groups = self._groups.get(ranks, AxisGroups())
        own = (self.traffic, self.progress, self._heartbeat)
        return Axis(name, ranks, ranks.index(self.rank), groups.messages, *own, groups.gathers)


_JOINED = itertools.count()  # meshes of this process; all ranks join them in one order


def default_layout(ranks: int) -> Layout:
    """Lowest latency for one guided image: the halves of guidance apart where the ranks are even, patches otherwise."""
    cfg = 2 if ranks % 2 == 0 else 1
    return Layout(data=1, cfg=cfg, patch=ranks // cfg)


def axis_of_one(rank: int = 0) -> Axis:
    """An axis of one rank outside any mesh."""
    return Axis(AxisName.ALONE, (rank,), 0, None, TrafficCounter())
