"""Weights to the ranks of one machine: read by every rank, or by one that sends them to the others.

Started without arguments by `measured`, which starts the ranks: `python -m benchmarks.throughput.weights FILE ROUNDS`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

RANKS, ROUNDS = (2, 4), 5
TENSORS, TENSOR_MB = 64, 8  # float16, as many megabytes as an eighth of SDXL's UNet and text encoders


def measured() -> dict[str, Any]:
    """Median seconds until the slowest rank has all weights in memory of its own, from a cold and a warm page cache."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "weights.safetensors"
        save_file({f"{n}": torch.randn(TENSOR_MB * 2**19).half() for n in range(TENSORS)}, file)
        os.sync()  # pages that wait to be written cannot be dropped
        figures = {str(ranks): _of_ranks(ranks, file) for ranks in RANKS}
        return {"mb": round(file.stat().st_size / 1e6), "rounds": ROUNDS, "seconds_by_ranks": figures}


def _of_ranks(ranks: int, file: Path) -> dict[str, Any]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launch, "-m", "benchmarks.throughput.weights", str(file), str(ROUNDS)]
    done = subprocess.run(
        command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _by_all(file: Path) -> list[Tensor]:
    # As the engine does: memory-mapped, and copied to where the network wants it.
    return [tensor.clone() for tensor in load_file(file).values()]


def _by_one(file: Path) -> list[Tensor]:
    if distributed.get_rank() == 0:
        weights = [tensor.clone() for tensor in load_file(file).values()]
    else:
        weights = [torch.empty(TENSOR_MB * 2**19, dtype=torch.float16) for _ in range(TENSORS)]
    for tensor in weights:
        distributed.broadcast(tensor, 0)
    return weights


def _forget(file: Path) -> None:
    """Drop the file from the page cache."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(way: Callable[[Path], list[Tensor]], file: Path, cold: bool) -> float:
    if cold and distributed.get_rank() == 0:
        _forget(file)
    distributed.barrier()
    began = time.perf_counter()
    way(file)
    took = torch.tensor(time.perf_counter() - began)
    distributed.all_reduce(took, op=distributed.ReduceOp.MAX)
    return took.item()


def main() -> None:
    """One rank; the first prints the figures as JSON."""
    file, rounds = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(minutes=2))
    cases = {
        f"{cache}, {name}": (way, cache == "cold")
        for cache in ("cold", "warm")
        for name, way in (("by all", _by_all), ("by one", _by_one))
    }
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, (way, cold) in cases.items():
            seconds[case].append(_seconds(way, file, cold))
    if distributed.get_rank() == 0:
        print(json.dumps({case: round(statistics.median(found), 3) for case, found in seconds.items()}), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
