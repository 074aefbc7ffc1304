"""Running out of memory, by one name whatever the device calls it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distri.ranks.errors import OutOfMemory


@contextmanager
def running_out() -> Iterator[None]:
    """Raise OutOfMemory when an allocation within the block fails."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_told(error)) from error
    except RuntimeError as error:
        # The allocator for a CPU has no class for this: its message is all there is.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(_told(error)) from error


def _told(error: BaseException) -> str:
    return (str(error).strip() or "an allocation failed").split("\n")[0]
