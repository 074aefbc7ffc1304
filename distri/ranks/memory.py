"""A device's memory: how much there is, what is free of it, and what a piece of work takes of it for a moment."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

_CONTAINERS_LIMIT = Path("/sys/fs/cgroup/memory.max")  # "max" where there is none


def memory_of(device: torch.device, ranks: int) -> int:
    """Bytes that a rank has: its GPU's, or its share of this machine's, or of this container's, among so many ranks."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        whole = min(whole, int(_CONTAINERS_LIMIT.read_text()))
    return whole // ranks


@dataclass
class Peak:
    """Most bytes that were held at a time within a block, beyond those that were held before it."""

    taken_bytes: int = 0


class Memory(Protocol):
    """What is asked of a device's memory, while nobody else works there."""

    @property
    def highest_bytes(self) -> int:
        """Most that this process has ever held at a time."""

    def free_bytes(self) -> int:
        """What can still be allocated, that which the allocator keeps for later among it."""

    def peak(self) -> AbstractContextManager[Peak]:
        """Measure the block; what it gives is known when the block ends."""


class DeviceMemory:
    """A GPU's, by torch's allocator. Its peak statistics are begun anew for every block that is measured."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._highest_bytes = device, 0

    @property
    def highest_bytes(self) -> int:
        """Most that this process has ever held at a time."""
        return max(self._highest_bytes, torch.cuda.max_memory_allocated(self._device))

    def free_bytes(self) -> int:
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)

    @contextmanager
    def peak(self) -> Iterator[Peak]:
        found = Peak()
        self._highest_bytes = self.highest_bytes
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        yield found
        found.taken_bytes = torch.cuda.max_memory_allocated(self._device) - before
