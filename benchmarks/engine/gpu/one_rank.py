"""One rank of N evaluates its patch, its messages switched off: it is timed, and what it would receive is counted.

Buffers are written and read as with peers. A step on N GPUs is projected as the longer of computing and receiving,
since a displaced exchange has a whole evaluation to arrive.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch

from benchmarks.engine.figures import no_messages
from benchmarks.engine.gpu.bench import DISPLACED, PUBLISHING, Bench, Row, busiest
from distri.layers import traffic
from distri.layers.unet import SplitUNet, patches_of
from distri.ranks import p2p
from distri.ranks.phase import EXACT, Evaluation

# cfg x patch; the first is what eight GPUs do by default.
LAYOUTS = ((2, 4), (1, 1), (1, 8), (2, 2), (1, 2))


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[Row]:
    """A guided evaluation of the busiest rank: displaced, and synchronous where that is another thing."""
    unet = bench.unet()
    for pixels in bench.pixels:
        for cfg, patch in LAYOUTS:
            for phase, evaluation in (("displaced", DISPLACED), ("synchronous", EXACT)):
                if phase == "displaced" and patch == 1:
                    continue
                row = {"pixels": pixels, "cfg": cfg, "patch": patch, "phase": phase}
                yield from bench.guarded(row, partial(_evaluated, bench, unet, pixels, (cfg, patch), evaluation))


def _evaluated(bench: Bench, unet: Any, pixels: int, layout: tuple[int, int], evaluation: Evaluation) -> Row:
    cfg, patch = layout
    batch = 2 // cfg
    patches = patches_of(unet, pixels // 8, pixels // 8, patch)
    axis, index = busiest(patches)
    latent, now = bench.latent(batch, pixels, unet.dtype), torch.tensor(501.0, device=bench.device)
    owner = SplitUNet(unet)
    try:
        with mock.patch.object(p2p, "post", no_messages):
            owner.begin(bench.conditions(unet, batch, pixels), axis, patches.height, patches.width)
            if evaluation is DISPLACED:
                owner(latent, now, PUBLISHING)
            found = bench.timed(partial(owner, latent, now, evaluation))
        kept_bytes = owner.shapes.buffer_bytes
    finally:
        owner.remove()
    own = traffic.of_unet(unet, patches, index, batch=batch, element_bytes=unet.dtype.itemsize)
    received_ms = own.received / (bench.link_gb_s * 1e6)
    return found | {
        "kept_gb": round(kept_bytes / 1e9, 3),
        "received_ms": round(received_ms, 2),
        "projected_ms": round(max(found["ms"], received_ms), 2),
    }
