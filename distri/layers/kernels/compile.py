"""Compile all kernels that SDXL needs, for an image: no GPU is needed for that.

python -m distri.layers.kernels.compile --architecture 90 --architecture 100
"""

import argparse
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia_driver
from triton.runtime.jit import JITFunction

from distri.layers.kernels.cache import COMPILED
from distri.layers.kernels.gating import gated
from distri.layers.kernels.merging import image_moments
from distri.layers.kernels.moments import group_moments
from distri.layers.kernels.scaling import scaled
from distri.layers.kernels.softmax import softmax
from distri.layers.kernels.summing import summed

ARCHITECTURES = (80, 89, 90, 100, 120)  # A100; L4, L40S, 4090; H100, H200; B200; 5090
MOST_RANKS = 8


class _Absent:
    """A GPU that compilers can ask for its architecture, and that nothing can be launched on."""

    def __init__(self, architecture: int) -> None:
        self._target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int = 0) -> int:
        return device


def compile_kernels(folder: Path, architectures: Sequence[int], most_ranks: int) -> int:
    """Compile into a folder; how many kernels it then has. Those that it has already are left as they are."""
    knobs.cache.dir = str(folder)
    with _launches_compile_only():
        for architecture in architectures:
            triton.runtime.driver.set_active(_Absent(architecture))
            for dtype in (torch.float16, torch.bfloat16):
                _launch_all(dtype, most_ranks)
    return sum(1 for _ in folder.rglob("*.cubin"))


def compile_binding(folder: Path) -> None:
    """Compile what Triton launches kernels with, as Triton does, against a library with the driver's name and calls."""
    knobs.cache.dir = str(folder)
    calls = sorted(set(re.findall(r"\bcu[A-Z]\w+", (Path(nvidia_driver.dirname) / "driver.c").read_text())))
    with TemporaryDirectory() as stub:
        source = Path(stub) / "driver.c"
        source.write_text("\n".join(f"void {call}(void) {{}}" for call in calls))
        library = Path(stub) / "libcuda.so.1"
        link = ["-shared", "-fno-builtin", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(library)]
        subprocess.run([os.environ.get("CC", "gcc"), *link], check=True)
        knobs.nvidia.libcuda_path = stub
        with suppress(ImportError):  # it is compiled and kept; only where there is a driver can it be loaded
            nvidia_driver.CudaUtils()


def _launch_all(dtype: torch.dtype, most_ranks: int) -> None:
    """What SDXL's networks launch in half precision, laid channels last, at sizes of whole units."""
    x = torch.empty((1, 32, 16, 320), dtype=dtype).movedim(-1, 1)
    weight, added = torch.empty(320, dtype=dtype), torch.empty((1, 320), dtype=dtype)
    moments = group_moments(x, 32)
    group_moments(x, 32, added)
    scaled(x, moments, weight, weight, 1e-5)
    scaled(x, moments, weight, weight, 1e-5, silu=True)
    scaled(x, moments, weight, weight, 1e-5, silu=True, added_BC=added)
    summed(x, x, weight)
    summed(x, x, weight, weight)
    gated(torch.empty((1, 64, 5120), dtype=dtype))
    softmax(torch.empty((1, 64, 1024)), dtype)
    for ranks in range(2, most_ranks + 1):
        for own_stale in (None, moments):
            image_moments([moments] * ranks, [1] * ranks, 0, own_stale)


@contextmanager
def _launches_compile_only() -> Iterator[None]:
    run = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=True, **options)

    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", type=int, action="append", help="90 for sm_90; all known if none is given")
    parser.add_argument("--folder", type=Path, default=COMPILED, help="where to; by default where pods look")
    parser.add_argument("--ranks", type=int, default=MOST_RANKS, help="patch ranks that the kernels merge at most")
    given = parser.parse_args()
    began = time.monotonic()
    compile_binding(given.folder)
    count = compile_kernels(given.folder, given.architecture or ARCHITECTURES, given.ranks)
    print(f"{count} kernels in {given.folder}, {time.monotonic() - began:.1f} s")  # noqa: T201 - a program
