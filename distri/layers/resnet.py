"""A residual block, its activations and its step's embedding drawn into the norms where kernels are used."""

# B batch, C channels, H and W of this rank's patch

from typing import Any

import torch
from torch import Tensor, nn

from distri.layers.context import Context


class FusedResnetBlock2d:
    """What diffusers' `ResnetBlock2D` gives; norms and convolutions are split in their own right.

    SiLU comes with the norm before it. What is added to whole channels between the first convolution and the second
    norm, the convolution's bias and the embedding of the time, is added by the norm: it reads the activation anyway.
    The biases of the second convolution and of the shortcut come with the sum of both.

    Args:
        module: owner of norms, convolutions and the projection of the embedding.
        context: the kernels.
    """

    def __init__(self, module: Any, context: Context) -> None:
        self.module = module
        self.context = context
        plain = type(module.nonlinearity) is nn.SiLU and module.time_embedding_norm == "default"
        biases = module.conv1.bias is not None and module.conv2.bias is not None
        self._known = plain and not module.skip_time_act and module.dropout.p == 0 and biases

    def __call__(self, x_BCHW: Tensor, temb: Tensor | None = None, *args: Any, **options: Any) -> Tensor:
        """This rank's patch of the output. `temb` is the embedding of the time, B by its width."""
        module = self.module
        if not self._known or not self.context.kernels.takes(x_BCHW):
            return torch.as_tensor(type(module).forward(module, x_BCHW, temb, *args, **options))
        hidden = module.conv1(module.norm1(x_BCHW, silu=True), with_bias=False)
        added_BC = module.conv1.bias.expand(x_BCHW.shape[0], -1)
        if module.time_emb_proj is not None and temb is not None:
            added_BC = added_BC + module.time_emb_proj(self.context.silu_of(temb))
        hidden = module.norm2(hidden, added_BC=added_BC, silu=True)
        out = self._sum(x_BCHW, hidden) if self.context.kernels.takes(hidden) else self._plain_sum(x_BCHW, hidden)
        return torch.as_tensor(out if module.output_scale_factor == 1 else out / module.output_scale_factor)

    def _plain_sum(self, x_BCHW: Tensor, hidden_BCHW: Tensor) -> Tensor:
        """Second convolution and shortcut, each with its bias, which costs a convolution on a CPU nothing."""
        module = self.module
        shortcut = x_BCHW if module.conv_shortcut is None else module.conv_shortcut(x_BCHW)
        return torch.as_tensor(shortcut + module.conv2(hidden_BCHW))

    def _sum(self, x_BCHW: Tensor, hidden_BCHW: Tensor) -> Tensor:
        """The same with both biases in the sum."""
        module = self.module
        hidden = module.conv2(hidden_BCHW, with_bias=False)
        shortcut, shortcut_bias = x_BCHW, None
        if module.conv_shortcut is not None:
            shortcut, shortcut_bias = module.conv_shortcut(x_BCHW, with_bias=False), module.conv_shortcut.bias

        def plain() -> Tensor:
            biases = [one for one in (module.conv2.bias, shortcut_bias) if one is not None]
            return torch.as_tensor(shortcut + (hidden + sum(biases).view(-1, 1, 1)))

        return self.context.kernels.summed(hidden, shortcut, module.conv2.bias, shortcut_bias, plain=plain)
