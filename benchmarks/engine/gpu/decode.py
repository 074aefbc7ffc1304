"""One rank of N decodes its patch of a picture, its messages switched off."""

from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch

from benchmarks.engine.figures import no_messages
from benchmarks.engine.gpu.bench import Bench, Row, busiest
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.patches import split

RANKS = (1, 8)


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[Row]:
    """The busiest rank, in bfloat16, the default on a GPU, and in float32, that of exact mode."""
    for dtype in (torch.bfloat16, torch.float32):
        owner = SplitVAE(bench.vae(dtype))
        for ranks in RANKS:
            for pixels in bench.pixels:
                row = {"pixels": pixels, "ranks": ranks, "dtype": str(dtype).removeprefix("torch.")}
                yield from bench.guarded(row, partial(_decoded, bench, owner, ranks, pixels))
        owner.remove()


def _decoded(bench: Bench, owner: SplitVAE, ranks: int, pixels: int) -> Row:
    axis, _ = busiest(split(pixels // 8, pixels // 8, ranks, unit=owner.unit))
    latent = bench.latent(1, pixels, torch.float32)
    with mock.patch.object(p2p, "post", no_messages):
        return bench.timed(lambda: owner.decode(latent, axis), repeats=max(1, bench.repeats // 3))
