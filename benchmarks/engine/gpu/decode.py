"""One rank of N decodes its patch of a picture, its messages switched off."""

from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch

from benchmarks.engine.gpu.bench import Bench, Row
from benchmarks.engine.peers import no_messages, zeros
from distri.layers.kernels.fused import FusedKernels
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.patches import split

RANKS = (1, 8)


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[Row]:
    """The busiest rank, in bfloat16, the default on a GPU, and in float32, that of exact mode."""
    for dtype in (torch.bfloat16, torch.float32):
        kernels = FusedKernels()
        owner = SplitVAE(bench.vae(dtype), kernels=kernels)
        for ranks in RANKS:
            for pixels in bench.pixels:
                row = {"pixels": pixels, "ranks": ranks, "dtype": str(dtype).removeprefix("torch.")}
                yield from bench.guarded(row, partial(_decoded, bench, owner, kernels, ranks, pixels))
        owner.remove()


def _decoded(bench: Bench, owner: SplitVAE, kernels: FusedKernels, ranks: int, pixels: int) -> Row:
    axis, _ = bench.busiest(split(pixels // 8, pixels // 8, ranks, unit=owner.unit))
    latent = bench.latent(1, pixels, torch.float32)
    with mock.patch.object(p2p, "post", zeros):
        owner.decode(latent, axis)
    with mock.patch.object(p2p, "post", no_messages):
        found = bench.timed(lambda: owner.decode(latent, axis), repeats=max(1, bench.repeats // 3))
    return found | {"fused": kernels.used, "not_fused": kernels.left_out}
