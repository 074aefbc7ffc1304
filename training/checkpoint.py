"""A training's state on disk, so that a stopped one goes on as if it had not stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def warmed_and_cooled(step: int, steps: int, *, warmup: int) -> float:
    """Share of the peak learning rate: up, level, and down to nearly nothing in the last fifth (Hu et al. 2024).

    Until that fifth it does not depend on `steps`: how long to train may be decided late.
    """
    return min(1.0, (step + 1) / warmup, max(0.01, 5 * (1 - step / steps)))


class Average:
    """The exponential moving average of a network's weights (Polyak and Juditsky 1992), which is what is shipped."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights; faster at the beginning."""
        decay = min(self._decay, (1 + step) / (10 + step))
        own = network.state_dict()
        learnt = [name for name, weight in own.items() if weight.is_floating_point()]
        torch._foreach_lerp_([self.weights[name] for name in learnt], [own[name] for name in learnt], 1 - decay)
        for name in own.keys() - set(learnt):
            self.weights[name].copy_(own[name])


def save(path: Path, *, step: int, cpu_s: float, network: nn.Module, average: Average, optimizer: Any) -> None:
    """Write all that the next step depends on; the file gets its name only when it is whole."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(step), "cpu_s": torch.tensor(cpu_s, dtype=torch.float64)}
    for name, weight in network.state_dict().items():
        tensors[f"network.{name}"] = weight
    for name, weight in average.weights.items():
        tensors[f"average.{name}"] = weight
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    unfinished = path.with_suffix(".unfinished")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.rename(path)


def load(path: Path, *, network: nn.Module, average: Average, optimizer: Any) -> tuple[int, float]:
    """Bring everything to where `save` left it; returns the step and the CPU seconds spent, zeros without a file."""
    if not path.exists():
        return 0, 0.0
    tensors = load_file(path)
    network.load_state_dict(_under("network.", tensors))
    average.weights = _under("average.", tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(tensors["step"]), float(tensors["cpu_s"])


def average_of(path: Path) -> dict[str, Tensor]:
    """Only the averaged weights of a checkpoint."""
    return _under("average.", load_file(path))


class Clock:
    """CPU seconds of this process, all threads, since it was made, and those spent before a restart."""

    def __init__(self, before_s: float) -> None:
        self._before_s, self._began = before_s, time.process_time()

    @property
    def cpu_s(self) -> float:
        return self._before_s + time.process_time() - self._began


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
