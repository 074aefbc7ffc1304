"""One rank of N evaluates its patch, its messages switched off: it is timed, and what it would receive is counted.

Buffers are written and read as with peers. A step on N GPUs is projected as the longer of computing and receiving,
since a displaced exchange has a whole evaluation to arrive.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch

from benchmarks.engine.gpu.bench import DISPLACED, PUBLISHING, SETTLING, WARM_UP, Bench, Row
from benchmarks.engine.peers import no_messages, zeros
from distri.layers import traffic
from distri.layers.kernels.fused import FusedKernels
from distri.layers.unet import SplitUNet, patches_of
from distri.ranks import p2p
from distri.ranks.phase import EXACT, Evaluation

# cfg x patch; the first is what eight GPUs do by default.
PHASES = {"displaced": DISPLACED, "settling": SETTLING, "synchronous": EXACT}
LAYOUTS = ((2, 4), (1, 1), (1, 8), (2, 2), (1, 2))


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[Row]:
    """A guided evaluation of the busiest rank in each phase, where that is another thing."""
    unet = bench.unet()
    for pixels in bench.pixels:
        for cfg, patch in LAYOUTS:
            for phase, evaluation in PHASES.items():
                if patch == 1 and phase != "synchronous":
                    continue
                for how in ("replayed",) if phase == "settling" else ("eager", "replayed"):
                    row = {"pixels": pixels, "cfg": cfg, "patch": patch, "phase": phase, "how": how}
                    case = _Case(pixels, cfg, patch, evaluation, replayed=how == "replayed")
                    yield from bench.guarded(row, partial(_evaluated, bench, unet, case))


@dataclass(frozen=True)
class _Case:
    """What is evaluated, and how."""

    pixels: int
    cfg: int
    patch: int
    evaluation: Evaluation
    replayed: bool


def _evaluated(bench: Bench, unet: Any, case: _Case) -> Row:
    pixels, cfg, patch = case.pixels, case.cfg, case.patch
    batch = 2 // cfg
    patches = patches_of(unet, pixels // 8, pixels // 8, patch)
    axis, index = bench.busiest(patches)
    latent, now = bench.latent(batch, pixels, unet.dtype), torch.tensor(501.0, device=bench.device)
    kernels = FusedKernels()
    owner = SplitUNet(unet, kernels=kernels, shapes=bench.shapes(replayed=case.replayed))
    try:
        owner.begin(bench.conditions(unet, batch, pixels), axis, patches.height, patches.width)
        with mock.patch.object(p2p, "post", zeros):  # what is recorded is compared, so it has to be numbers
            owner(latent, now, PUBLISHING)
            for _ in range(WARM_UP):
                owner(latent, now, case.evaluation)
        with mock.patch.object(p2p, "post", no_messages):
            found = bench.timed(partial(owner, latent, now, case.evaluation))
            waits = bench.synchronises(partial(owner, latent, now, case.evaluation))
        kept_bytes, recordings = owner.shapes.buffer_bytes, owner.shapes.recordings
    finally:
        owner.remove()
    own = traffic.of_unet(unet, patches, index, batch=batch, element_bytes=unet.dtype.itemsize)
    received_ms = own.received / (bench.link_gb_s * 1e6)
    if case.replayed and not recordings:
        found["failed"] = "it was not replayed; the log says why"
    return found | {
        "synchronises": waits,
        "fused": kernels.used,
        "not_fused": kernels.left_out,
        "kept_gb": round(kept_bytes / 1e9, 3),
        "received_ms": round(received_ms, 2),
        "projected_ms": round(max(found["ms"], received_ms), 2),
    }
