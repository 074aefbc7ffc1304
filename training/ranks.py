"""Training by several processes: each has its own batches, and every TOGETHER steps all take the mean (Stich 2019).

That costs a tenth of averaging every step's gradients. How many there are belongs to what decides the result.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import torch
from torch import distributed, nn

TOGETHER = 10  # steps from one mean to the next; checkpoints are written after one


def launch(module: str, arguments: Sequence[str], *, processes: int) -> None:
    """Run a module of this package as that many ranks of one thread each, which are faster than threads of one."""
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run([*ranks, "-m", module, *arguments], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@torch.no_grad()
def average(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give each rank the mean of all ranks' weights and moments. Collective; alone it does nothing."""
    if not distributed.is_initialized():
        return
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    tensors = [*network.parameters(), *moments]
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(whole)
    whole /= distributed.get_world_size()
    parts = torch.split_with_sizes(whole, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
