"""What a device's own failure is: out of memory, a bad GPU, or another error of this rank, and no lost peer.

torch raises these wherever it notices them, also within a message: a kernel fails at some time after it was launched.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distri.ranks.errors import EngineError, GpuFailed, OutOfMemory

# cudaError values (driver_types.h). Others, an illegal address (700) say, are as often a program's fault as a GPU's.
_NO_MEMORY = 2
_BAD_GPU = {
    46: "busy or unavailable",
    100: "not detected",
    101: "not a valid device",
    127: "failed to start",
    214: "uncorrectable ECC error",
    220: "uncorrectable NVLink error",
    226: "an error that the GPU contained",
    304: "an operating system call failed",
    714: "hardware stack error",
    802: "its system is not ready: is the fabric manager running?",
    911: "an error of an external device",
    999: "unknown error, as of a GPU that has fallen off its bus",
}

# What only a message tells: the CPU's allocator, oneDNN, cuBLAS, cuDNN and NCCL have no class or number for it. oneDNN
# makes its kernels as they are needed, in memory that the system gives it; one that it has none for is a descriptor.
_SAYS_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|std::bad_alloc|could not (create|execute) a (primitive(?! descriptor)|memory object)"
    r"|CUDA out of memory|(CUBLAS|CUDNN)_STATUS_(\w*_)?ALLOC(ATION)?_FAILED"
    r"|Failed to CUDA (host )?(m|c)alloc|Cuda failure (\d+ )?'out of memory'",
    re.IGNORECASE,
)
_NO_GPU = {"No CUDA GPUs are available": 100, "CUDA unknown error": 999}
_NCCL_ON_CUDA = re.compile(r"Cuda failure|unhandled cuda error|ncclUnhandledCudaError")
_NCCL_CODE = re.compile(r"Cuda failure (\d+)")


def device_failure(error: BaseException) -> EngineError | None:
    """The error as one of ours: OutOfMemory, or GpuFailed where the node is better left alone; None if neither."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OutOfMemory(_first_line(error))
    if not isinstance(error, RuntimeError):
        return None
    code = _cuda_code(error)
    if code == _NO_MEMORY or _SAYS_NO_MEMORY.search(str(error)):
        return OutOfMemory(_first_line(error))
    return GpuFailed(code, _BAD_GPU[code], _first_line(error)) if code is not None and code in _BAD_GPU else None


def is_of_device(error: RuntimeError) -> bool:
    """Whether this rank's own device failed, where torch.distributed may have been what noticed it."""
    return (
        isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)
        or device_failure(error) is not None
        or _NCCL_ON_CUDA.search(str(error)) is not None
    )


@contextmanager
def raise_device_failures() -> Iterator[None]:
    """Raise OutOfMemory when an allocation within the block fails, and GpuFailed when the GPU does."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        failure = device_failure(error)
        if failure is None:
            raise
        raise failure from error


def _cuda_code(error: RuntimeError) -> int | None:
    """The cudaError behind an error of torch, or of NCCL, which names it in its message only."""
    if isinstance(code := getattr(error, "error_code", None), int):
        return code
    if named := _NCCL_CODE.search(str(error)):
        return int(named[1])
    return next((code for words, code in _NO_GPU.items() if words in str(error)), None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "an allocation failed").split("\n")[0]
