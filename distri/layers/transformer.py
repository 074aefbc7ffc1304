"""A stack of transformer blocks over one patch's tokens, some of them moved so that all ranks have about equal work."""

# B batch, C channels, H and W of this rank's patch, T its tokens, D those that it computes

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distri.layers.context import Context
from distri.ranks.sites import Incoming, Outgoing

Shares = Sequence[tuple[int, int]]  # peers (places on the axis), and how many tokens are theirs


class _Leg(Enum):
    """The two moves of a token that another rank computes; each is a site of the exchange."""

    HAND_ON = "hand on"
    RETURN = "return"


class PatchTransformer2d:
    """What diffusers' `Transformer2DModel` gives over the whole image, for this rank's patch of it.

    A block computes every token by itself, but for the keys and values that self-attention trades anyway. So any rank
    may compute any token, and where rows are too uneven, ranks with more of them hand their last tokens on.

    Args:
        module: owner of norm, projections and blocks, which are split in their own right.
        site: the module's name.
        context: where the evaluation stands.
        halvings: how many stride-2 layers lie before it.

    Communication: `Patches.moves` and their return, if there are any. A move counts tokens (pixels at this layer's
    resolution) of each image in the batch; a token is as many numbers as the transformer has channels. In a displaced
    evaluation the tokens handed on are those of the evaluation before, and so what comes back is two evaluations old;
    what it is added to is fresh.
    """

    def __init__(self, module: Any, site: str, context: Context, halvings: int) -> None:
        self.module = module
        self.site = site
        self.context = context
        self.halvings = halvings

    def __call__(self, x_BCHW: Tensor, encoder_hidden_states: Tensor | None = None, **options: Any) -> Any:
        """This rank's patch of the output, as the first of what is returned."""
        module, context = self.module, self.context
        index, moves = context.axis.index, context.patches.at(self.halvings).moves if context.split else ()
        if not moves and not context.channels_last:  # diffusers' own would lay what it returns the other way again
            return type(module).forward(module, x_BCHW, encoder_hidden_states, **options)
        given = [(move.destination, move.tokens) for move in moves if move.origin == index]
        taken = [(move.origin, move.tokens) for move in moves if move.destination == index]
        masks = {name: options.get(name) for name in ("attention_mask", "encoder_attention_mask")}
        x_BTC = module.norm(x_BCHW).flatten(2).transpose(1, 2)
        x_BDC = _projected(module.proj_in, self._move_tokens(_Leg.HAND_ON, x_BTC, given, taken) if moves else x_BTC)
        for block in module.transformer_blocks:
            x_BDC = block(x_BDC, encoder_hidden_states=encoder_hidden_states, **masks)
        out_BTC = _projected(module.proj_out, x_BDC)
        if moves:
            out_BTC = self._move_tokens(_Leg.RETURN, out_BTC, taken, given)
        return (out_BTC.transpose(1, 2).reshape(x_BCHW.shape) + x_BCHW,)

    def _move_tokens(self, leg: _Leg, x_BNC: Tensor, given: Shares, taken: Shares) -> Tensor:
        """The tokens but for the last ones, which go to peers as `given` says, then those that peers send (`taken`)."""
        context = self.context
        batch, count, channels = x_BNC.shape
        sizes = [tokens for _, tokens in given]
        kept_BNC, *shares = x_BNC.split_with_sizes([count - sum(sizes), *sizes], dim=1)
        outgoing = [Outgoing((peer,), share, everyone=False) for (peer, _), share in zip(given, shares, strict=True)]
        incoming = [Incoming(peer, (batch, tokens, channels), everyone=False) for peer, tokens in taken]
        moved = sum(move.tokens for move in context.patches.at(self.halvings).moves)
        total_bytes = batch * moved * channels * x_BNC.element_size()
        with context.exchange.trade(
            *(f"{self.site}, {leg.value}", outgoing, incoming, context.evaluation_of_rest),
            like=x_BNC,
            total_bytes=total_bytes,
        ) as received:
            return torch.cat([kept_BNC, *received], dim=1)


def _projected(projection: nn.Module, x_BNC: Tensor) -> Tensor:
    """A projection of tokens, which in some networks is a convolution of kernel 1."""
    if isinstance(projection, nn.Conv2d):
        return functional.linear(x_BNC, projection.weight.flatten(1), projection.bias)
    return torch.as_tensor(projection(x_BNC))
