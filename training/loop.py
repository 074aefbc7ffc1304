"""Steps of training with a checkpoint, for what is small and learnt by one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from training.checkpoint import Average, Clock, load, save, warmed_and_cooled

AVERAGE, NOTED = 0.995, 50
Group = tuple[float, Sequence[nn.Parameter]]


@dataclass(frozen=True)
class Plan:
    """How long to train on pictures of 128 px, then of 256 px, the demo model's own size."""

    small_steps: int
    small_batch: int
    large_steps: int
    large_batch: int

    @property
    def steps(self) -> int:
        """Of both."""
        return self.small_steps + self.large_steps


def learn(
    path: Path,
    network: nn.Module,
    groups: Sequence[Group],
    loss: Callable[[int, Random], Tensor],
    *,
    steps: int,
    warmup: int = 50,
    weight_decay: float = 0.01,
    save_every: int = 100,
) -> Path:
    """Train from where the last run stopped to the end.

    Args:
        path: of the checkpoint; a `.jsonl` beside it holds step, loss (mean of 50 steps) and CPU seconds.
        network: what is kept, and averaged.
        groups: peak learning rates and the weights that learn by them.
        loss: of a step, by a lot that depends on the step alone.
        steps: of the whole training.
        warmup: steps in which the rate rises.
        weight_decay: AdamW's.
        save_every: steps from one checkpoint to the next.
    """
    optimizer = torch.optim.AdamW(
        [{"params": list(weights), "peak": rate} for rate, weights in groups],
        betas=(0.9, 0.98),
        weight_decay=weight_decay,
    )
    average = Average(network, AVERAGE)
    done, spent_s = load(path, network=network, average=average, optimizer=optimizer)
    clock, losses = Clock(spent_s), list[float]()
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * warmed_and_cooled(step, steps, warmup=warmup)
        found = loss(step, Random(f"{path.stem} {step}"))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(found)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.follow(network, step)
        losses.append(found.item())
        if (step + 1) % NOTED == 0:
            record = {"step": step + 1, "loss": round(sum(losses) / len(losses), 5), "cpu_s": round(clock.cpu_s, 1)}
            with path.with_suffix(".jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            losses = []
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(path, step=step + 1, cpu_s=clock.cpu_s, network=network, average=average, optimizer=optimizer)
    return path
