"""Multiply-adds of one evaluation of a UNet, from its shapes alone: what stays with rows, and what goes with tokens."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from distri.layers.resolution import evaluated, halvings_before_conv, halvings_of
from distri.layers.windows import windows_of
from distri.ranks.patches import split

TEXT_TOKENS = 77


@dataclass(frozen=True)
class Arithmetic:
    """Multiply-adds of the whole image.

    Attributes:
        rows: of convolutions, which a rank does for the rows that it holds.
        tokens: of transformers, which any rank can do for any token.
        rows_share: of the rows in all.
    """

    rows: int
    tokens: int

    @property
    def rows_share(self) -> float:
        return self.rows / (self.rows + self.tokens)


def of_unet(unet: Any, height: int, width: int, *, window: int | None = None) -> Arithmetic:
    """Arithmetic for one row of the batch; embeddings of time and text, which every rank does, are left out.

    Args:
        unet: a diffusers UNet that the engine splits, or a ControlNet; its weights are not read.
        height, width: of the latent.
        window: side in latent elements of the windows that self-attention is computed in; None means the whole.
    """
    whole = split(height, width, 1, unit=1)
    rows = tokens = 0
    for site, module in evaluated(unet):
        if isinstance(module, nn.Conv2d) and "attentions" not in site:
            leaving = whole.at(halvings_before_conv(unet, site)).at(module.stride[0] - 1)
            rows += leaving.area(0) * module.weight.numel()
        elif type(module).__name__ == "Transformer2DModel":
            halvings = halvings_of(unet, site)
            pixels = whole.at(halvings).area(0)
            windows = windows_of(whole, window, halvings)
            tokens += pixels * _token_operations(module, pixels if windows is None else windows.keys)
    return Arithmetic(rows, tokens)


def _token_operations(transformer: Any, keys: int) -> int:
    """Multiply-adds for one token that sees so many of the image.

    Every weight counts once, but for those of the text's keys and values, and attention twice.
    """
    total = 0
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            total += module.weight.numel()
        elif type(module).__name__ == "Attention":
            seen = TEXT_TOKENS if module.is_cross_attention else keys
            total += 2 * seen * module.inner_dim
            if module.is_cross_attention:
                total -= module.to_k.weight.numel() + module.to_v.weight.numel()
    return total
