"""Two ranks with unequal rows: tokens handed on until they do as much, against each computing its own.

Both ways, displaced and synchronous, alternate within one run, as in `speed`.
"""

import math
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.engine import networks
from benchmarks.engine.speed import BATCH, DISPLACED, WARM_UP
from distri.layers.unet import SplitUNet
from distri.ranks import p2p
from distri.ranks.patches import MOST_WORK
from distri.ranks.phase import EXACT, Evaluation, Phase
from tests.distri import on_ranks
from tests.distri.pool import Ranks

SIZES = (36, 44, 68)
WAYS = {"handed on": MOST_WORK, "own tokens": math.inf}
PHASES = {"displaced": DISPLACED, "synchronous": EXACT}


def measured(rounds: int, evaluations: int) -> dict[str, Any]:
    """Median milliseconds of both ways by latent size and phase, and the median of the rounds' ratios."""
    pool = Ranks(2)
    try:
        answers = {size: pool.run(_on_rank, size, rounds, evaluations, timeout_s=3600) for size in SIZES}
    finally:
        pool.stop()
    return {"rounds": rounds, "sizes": {f"{size}x{size}": _summary(ranks) for size, ranks in answers.items()}}


def _summary(ranks: list[tuple[int, dict[tuple[str, str], list[float]]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": [rows for rows, _ in ranks]}
    for phase in PHASES:
        both = [[max(pair) for pair in zip(*(times[way, phase] for _, times in ranks), strict=True)] for way in WAYS]
        found[phase] = {
            "median_ms": [round(1000 * statistics.median(one), 2) for one in both],
            "ratio": round(statistics.median(a / b for a, b in zip(*both, strict=True)), 3),
        }
    return found


@torch.inference_mode()
def _on_rank(size: int, rounds: int, evaluations: int) -> tuple[int, dict[tuple[str, str], list[float]]]:
    """This rank's rows of the latent, and seconds an evaluation of every round by way and phase."""
    mesh = on_ranks.mesh()
    conditions, latent, time_now = networks.conditions(BATCH), torch.randn(BATCH, 4, size, size), torch.tensor(501.0)
    splits = {way: SplitUNet(networks.speed_unet(), most_work=most_work) for way, most_work in WAYS.items()}
    for split in splits.values():
        patches = split.begin(conditions, mesh.patch, size, size)
        split(latent, time_now, Evaluation(Phase.SYNCHRONOUS, publish=True))
    shapes = [(BATCH, 4, *patches.size(place)) for place in range(mesh.patch.size)]
    times: dict[tuple[str, str], list[float]] = {(way, phase): [] for way in WAYS for phase in PHASES}
    for turn in range(WARM_UP + rounds):
        for (way, phase), spent in times.items():
            dist.barrier()
            begun = time.perf_counter()
            for _ in range(evaluations):
                p2p.gather(mesh.patch, splits[way](latent, time_now, PHASES[phase]), shapes)
            if turn >= WARM_UP:
                spent.append((time.perf_counter() - begun) / evaluations)
    for split in splits.values():
        split.end()
    return patches.rows(mesh.patch.index), times
