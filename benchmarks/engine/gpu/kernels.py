"""Which kernels an evaluation spends its time in, and how many it launches."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch's stub lacks it
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine.gpu.bench import DISPLACED, PUBLISHING, WARM_UP, Bench, Row
from benchmarks.engine.peers import no_messages, zeros
from distri.layers.kernels.fused import FusedKernels
from distri.layers.unet import SplitUNet, patches_of
from distri.ranks import p2p

CFG, PATCH = 2, 4
SHOWN = 15


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[Row]:
    """A displaced evaluation of the busiest of eight ranks, eager."""
    unet = bench.unet()
    for pixels in bench.pixels:
        row = {"pixels": pixels, "cfg": CFG, "patch": PATCH}
        yield from bench.guarded(row, partial(_profiled, bench, unet, pixels))


def _profiled(bench: Bench, unet: Any, pixels: int) -> Row:
    patches = patches_of(unet, pixels // 8, pixels // 8, PATCH)
    axis, _ = bench.busiest(patches)
    latent, now = bench.latent(2 // CFG, pixels, unet.dtype), torch.tensor(501.0, device=bench.device)
    kernels = FusedKernels()
    owner = SplitUNet(unet, kernels=kernels)
    activity = ProfilerActivity.CPU if bench.small else ProfilerActivity.CUDA
    try:
        with mock.patch.object(p2p, "post", zeros):
            owner.begin(bench.conditions(unet, 2 // CFG, pixels), axis, patches.height, patches.width)
            for _ in range(WARM_UP):
                owner(latent, now, PUBLISHING)
                owner(latent, now, DISPLACED)
            bench.wait()
        with mock.patch.object(p2p, "post", no_messages), profile(activities=[activity]) as seen:
            owner(latent, now, DISPLACED)
            bench.wait()
    finally:
        owner.remove()
    # Beside kernels a GPU's profile has the calls that launched them.
    on_device = DeviceType.CPU if bench.small else DeviceType.CUDA
    events = [event for event in seen.key_averages() if event.device_type == on_device]
    spent = [(event.key, event.count, _microseconds(event, bench)) for event in events]
    spent.sort(key=lambda each: -each[2])
    return {
        "kernels": sum(count for _, count, _ in spent),
        "busy_ms": round(sum(microseconds for *_, microseconds in spent) / 1000, 2),
        "fused": kernels.used,
        "not_fused": kernels.left_out,
        "most": [
            {"kernel": name[:120], "calls": count, "ms": round(microseconds / 1000, 3)}
            for name, count, microseconds in spent[:SHOWN]
        ],
    }


def _microseconds(event: Any, bench: Bench) -> float:
    return float(event.self_cpu_time_total if bench.small else event.self_device_time_total)
