"""A T2I-Adapter: features of a picture that are added within the UNet's blocks (Mou et al. 2023, arXiv 2302.08453).

Unlike a control network it does not see the latent. So its features are computed once a pass, the whole of them on
every rank, a twentieth of the work of one evaluation of SDXL; each evaluation adds this rank's patch of them and sends
nothing.
"""

# B batch, C channels, H and W of the picture, of a feature map or of this rank's patch of it

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distri.layers.controlnet import ControlRows, Residuals, Shown


class PatchT2IAdapter:
    """A diffusers `T2IAdapter` of the type `full_adapter_xl`, which gives SDXL's UNet four maps of features.

    Attributes:
        halvings, modes: see `SplitControlNet`.
    """

    halvings: tuple[int | None, ...] = (1, 1, 2, 2)
    modes: int | None = None

    def __init__(self, network: Any) -> None:
        self.network = network

    def embed(self, shown: Sequence[Shown]) -> tuple[Tensor, ...]:
        """The features of one picture, whole, of half the latent's rows and columns and of a quarter, rounded up.

        A picture that does not divide is continued at its lower and right border, where stride-2 layers round, too.
        """
        (one,) = shown
        network, picture_BCHW = self.network, one.picture
        if network.config.in_channels == 1:
            red, green, blue = torch.split(picture_BCHW, 1, dim=1)
            picture_BCHW = 0.299 * red + 0.587 * green + 0.114 * blue
        missing = [-side % network.downscale_factor for side in picture_BCHW.shape[2:]]
        whole_BCHW = functional.pad(picture_BCHW, (0, missing[1], 0, missing[0]), mode="replicate")
        return tuple(network(whole_BCHW.to(network.dtype)))

    def __call__(
        self, _latent: Tensor, _timestep: Tensor, _text: Tensor, _added: dict[str, Tensor], rows: ControlRows
    ) -> Residuals:
        """What it adds to this rank's patch; no communication."""
        return Residuals(within=[features_BCHW * rows.scale for features_BCHW in rows.seen])

    def read_text(self, text_BLC: Tensor) -> None:
        """It reads none."""

    def remove(self) -> None:
        """Nothing of it was changed."""
