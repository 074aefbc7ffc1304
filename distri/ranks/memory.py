"""One error for running out of memory, whatever the device raises."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distri.ranks.errors import OutOfMemory


@contextmanager
def raise_out_of_memory() -> Iterator[None]:
    """Raise OutOfMemory when an allocation within the block fails."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_first_line(error)) from error
    except RuntimeError as error:
        # The allocator for a CPU has no class for this: its message is all there is.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "an allocation failed").split("\n")[0]
