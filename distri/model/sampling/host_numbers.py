"""A scheduler's numbers on the host, its latents on the device: no step waits for the device.

Diffusers' schedulers look up numbers in their tables at every step, and some bring them to the latents' device: a copy
from pageable memory, for which the program waits, or a small system of equations, whose solver reads a flag back. Their
tables stay on the CPU here. A number (a tensor without dimensions) is understood by operations of the device as it is.
What has dimensions, noise above all, goes through pinned memory, and nobody waits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MAKERS = (torch.tensor, torch.as_tensor)
_FILLERS = (torch.ones, torch.zeros, torch.full)  # with dimensions they are filled by the device itself


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU tensor on the device; does not wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class HostNumbers(TorchFunctionMode):
    """Within it numbers stay on the host and arrays go to a device through pinned memory, whatever asks for it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called for every function of torch."""
        named = dict(kwargs or {})
        if func is torch.Tensor.to and args[0].device.type == "cpu":
            device, dtype = _target(args[1:], named)
            if device is not None and device.type != "cpu":
                return _carried(args[0] if dtype is None else args[0].to(dtype), device)
        elif func in _MAKERS or func in _FILLERS:
            device = torch.device(named["device"]) if named.get("device") is not None else None
            if device is not None and device.type != "cpu":
                made = func(*args, **named | {"device": "cpu"})
                return func(*args, **named) if func in _FILLERS and made.ndim else _carried(made, device)
        return func(*args, **named)


def _carried(tensor: Tensor, device: torch.device) -> Tensor:
    return upload(tensor, device) if tensor.ndim and tensor.device.type == "cpu" else tensor


def _target(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype that `Tensor.to` is asked for."""
    given = [*args, *(named.get(name) for name in ("device", "dtype", "other"))]
    like = next((one for one in given if isinstance(one, Tensor)), None)
    if like is not None:
        return like.device, like.dtype
    device = next((torch.device(one) for one in given if isinstance(one, str | torch.device)), None)
    return device, next((one for one in given if isinstance(one, torch.dtype)), None)
