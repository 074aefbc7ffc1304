"""The first half of a feed-forward network, its gate fused where kernels are used."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distri.layers.context import Context


class FusedGEGLU:
    """What diffusers' `GEGLU` gives; a token needs no other, so nothing is split.

    Args:
        module: owner of the projection.
        context: the kernels.
    """

    def __init__(self, module: Any, context: Context) -> None:
        self.module = module
        self.context = context

    def __call__(self, x_BTC: Tensor, *_: Any, **__: Any) -> Tensor:
        """Projection to twice the width; one half times the GELU of the other. No communication."""
        module, kernels = self.module, self.context.kernels
        if not kernels.takes(x_BTC):
            return torch.as_tensor(type(module).forward(module, x_BTC))
        both_BTC = module.proj(x_BTC)

        def plain() -> Tensor:
            value_BTC, gate_BTC = both_BTC.chunk(2, dim=-1)
            return torch.as_tensor(value_BTC * functional.gelu(gate_BTC))

        return kernels.gated(both_BTC, plain=plain)
