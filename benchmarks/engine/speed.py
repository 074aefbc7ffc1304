"""Two ranks against one: displaced, with keys and values alone displaced, synchronous, and with the exchange off.

All sides alternate within one run. A block of evaluations is timed between barriers, by the wall and by each rank's own
processor time. The wall is what a user waits for; on a machine that others use as well, processor time is what remains
comparable. A rank that waits in gloo sleeps, so waiting costs no processor time.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from benchmarks.engine import networks
from benchmarks.engine.peers import no_messages
from distri.layers.unet import SplitUNet
from distri.ranks import p2p
from distri.ranks.phase import EXACT, Evaluation, Phase
from tests.distri import on_ranks
from tests.distri.pool import Ranks

BATCH, SIZES, WARM_UP = 2, (64, 96), 2
SIDES = ("one rank", "displaced", "settling", "synchronous", "exchange off")
DISPLACED = Evaluation(Phase.DISPLACED, publish=True)
SETTLING = Evaluation(Phase.DISPLACED, publish=True, rest=EXACT)


@dataclass(frozen=True)
class Times:
    """Seconds per evaluation of one block on one rank."""

    wall_s: float
    processor_s: float


def measured(rounds: int, evaluations: int) -> dict[str, Any]:
    """Medians over rounds per latent size and side, the ratios asked for, and the machine's load."""
    load_before = os.getloadavg()[0]
    pool = Ranks(2)
    try:
        answers = {size: pool.run(_on_rank, size, rounds, evaluations, timeout_s=3600) for size in SIZES}
    finally:
        pool.stop()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "load_of_ours": "about 1 while one rank computes, 2 while both do",
        "rounds": rounds,
        "evaluations_a_block": evaluations,
        "sizes": {f"{size}x{size}": _summary(ranks) for size, ranks in answers.items()},
    }


def _summary(ranks: list[dict[str, list[Times]]]) -> dict[str, Any]:
    """Of both ranks a block takes as long as the slower one."""
    blocks = {side: list(zip(*(rank[side] for rank in ranks), strict=True)) for side in SIDES}
    wall = {side: [max(own.wall_s for own in both) for both in blocks[side]] for side in SIDES}
    processor = {side: [max(own.processor_s for own in both) for both in blocks[side]] for side in SIDES}
    return {"wall": _ratios(wall), "processor": _ratios(processor)}


def _ratios(blocks: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios are medians of the ratios within a round: what slows the machine slows both sides of a round."""

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(a / b for a, b in zip(blocks[above], blocks[below], strict=True)), 3)

    return {
        "median_ms": {side: round(1000 * statistics.median(times), 2) for side, times in blocks.items()},
        "least_ms": {side: round(1000 * min(times), 2) for side, times in blocks.items()},
        "speedup_displaced": ratio("one rank", "displaced"),
        "speedup_synchronous": ratio("one rank", "synchronous"),
        "speedup_exchange_off": ratio("one rank", "exchange off"),
        "displaced_over_exchange_off": ratio("displaced", "exchange off"),
        "displaced_over_synchronous": ratio("displaced", "synchronous"),
        "settling_over_displaced": ratio("settling", "displaced"),
    }


@torch.inference_mode()
def _on_rank(size: int, rounds: int, evaluations: int) -> dict[str, list[Times]]:
    """One rank's part: every round goes through all sides."""
    mesh = on_ranks.mesh()
    whole, split = SplitUNet(networks.speed_unet()), SplitUNet(networks.speed_unet())
    conditions, latent = networks.conditions(BATCH), torch.randn(BATCH, 4, size, size)
    time_now = torch.tensor(501.0)
    whole.begin(conditions, mesh.alone, size, size)
    patches = split.begin(conditions, mesh.patch, size, size)
    shapes = [(BATCH, 4, *patches.size(place)) for place in range(mesh.patch.size)]

    def shared(evaluation: Evaluation) -> None:
        p2p.gather(mesh.patch, split(latent, time_now, evaluation), shapes)

    def one_rank() -> None:
        if mesh.rank == 0:
            whole(latent, time_now, EXACT)

    def exchange_off() -> None:
        with mock.patch.object(p2p, "post", no_messages):
            shared(DISPLACED)

    work: dict[str, Callable[[], None]] = {
        "one rank": one_rank,
        "displaced": lambda: shared(DISPLACED),
        "settling": lambda: shared(SETTLING),
        "synchronous": lambda: shared(EXACT),
        "exchange off": exchange_off,
    }
    shared(Evaluation(Phase.SYNCHRONOUS, publish=True))
    times: dict[str, list[Times]] = {side: [] for side in SIDES}
    for turn in range(WARM_UP + rounds):
        for side in SIDES:
            dist.barrier()
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(evaluations):
                work[side]()
            spent = Times((time.perf_counter() - wall) / evaluations, (time.process_time() - processor) / evaluations)
            if turn >= WARM_UP:
                times[side].append(spent)
    split.end()
    return times
