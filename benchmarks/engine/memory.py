"""Peak of a rank's activations while it decodes or encodes with SDXL's VAE, counted from shapes on the meta device."""

import math
import weakref
from collections.abc import Callable
from itertools import product
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine import networks
from benchmarks.engine.peers import no_messages
from distri.layers.vae import SplitVAE
from distri.ranks import mesh, p2p
from distri.ranks.mesh import Axis, AxisName
from distri.ranks.patches import split
from distri.sampling.pixels import SHARE_OF_MEMORY, WIDEST_AT_ONCE

COUNTS = (1, 2, 3, 4, 8)
PLANNED = ((1024, 1024), (2480, 3504), (3840, 3840))
LARGE, GPUS_GB = ((8192, 8192), (10_000, 10_000)), (24, 80)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not say
    """Counts the storages that operations make, from their making until nothing holds them any more.

    Attributes:
        peak: most bytes alive at once. What an operation uses only inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.live: int = 0
        self.peak: int = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.live -= size


def of_vae() -> list[dict[str, Any]]:
    """Peak bytes of the busiest of N ranks, float32, and that times N over one rank's: 1 is perfect."""
    vae = networks.sdxl_vae()
    rows = []
    for width, height in PLANNED:
        whole: dict[str, int] = {}
        for count in COUNTS:
            row: dict[str, Any] = {"width": width, "height": height, "ranks": count}
            for half in ("decode", "encode"):
                peak = peak_bytes(vae, half, (width, height), count)
                whole.setdefault(half, peak)
                row |= {f"{half}_gb": round(peak / 1e9, 3), f"{half}_share": round(peak * count / whole[half], 3)}
            rows.append(row)
            print(row, flush=True)
    return rows


def of_strips() -> list[dict[str, Any]]:
    """Peak bytes of the busiest of N ranks in bfloat16, whole and as ranks of so much memory compute it; operations."""
    vae = networks.sdxl_vae().to(torch.bfloat16)
    rows = []
    for (width, height), count, memory_gb in product(LARGE, (1, 8), GPUS_GB):
        most_bytes = memory_gb * 1e9 * SHARE_OF_MEMORY / WIDEST_AT_ONCE
        row: dict[str, Any] = {"width": width, "height": height, "ranks": count, "memory_gb": memory_gb}
        for half in ("decode", "encode"):
            with FlopCounterMode(display=False) as whole:
                row[f"{half}_whole_gb"] = round(peak_bytes(vae, half, (width, height), count) / 1e9, 1)
            with FlopCounterMode(display=False) as stripped:
                peak = peak_bytes(vae, half, (width, height), count, most_bytes)
            row[f"{half}_gb"] = round(peak / 1e9, 1)
            row[f"{half}_operations"] = round(stripped.get_total_flops() / whole.get_total_flops(), 2)
        rows.append(row)
        print(row, flush=True)
    return rows


def peak_bytes(vae: Any, half: str, size: tuple[int, int], count: int, most_bytes: float = math.inf) -> int:
    """Most bytes alive at once on the busiest of `count` ranks; `half` is decode or encode."""
    width, height = size
    patches = split(height // 8, width // 8, count, unit=1)
    busiest = max(range(count), key=patches.rows)
    axis = Axis(AxisName.PATCH, tuple(range(count)), busiest, None, mesh.TrafficCounter())
    owner = SplitVAE(vae, most_bytes=most_bytes)
    latent = torch.empty((1, 4, height // 8, width // 8), device="meta", dtype=vae.dtype)
    image = torch.empty((1, 3, height, width), device="meta", dtype=vae.dtype)
    work: Callable[[], object] = (
        (lambda: owner.decode(latent, axis)) if half == "decode" else (lambda: owner.encode(image, axis))
    )
    with torch.inference_mode(), mock.patch.object(p2p, "post", no_messages), LiveBytes() as counter:
        work()
    owner.remove()
    return int(counter.peak)
