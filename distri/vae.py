"""The VAE's decoder on one rank's patch of the latent: exact, with about 1/N of the activations on each of N ranks."""

from typing import Any

import torch
from torch import Tensor

from distri.context import Context
from distri.exchange import Exchange
from distri.mesh import Axis
from distri.patches import Patches, split
from distri.phase import EXACT, NormMode
from distri.plan import SplitLayers


class SplitVAE:
    """A diffusers `AutoencoderKL` whose decoding is shared by the ranks of an axis.

    Always synchronous: halos for convolutions, merged moments for GroupNorm, and each rank's own queries over gathered
    keys and values in the middle attention. `remove` gives the network back unchanged.

    Args:
        vae: in the dtype to decode in; float32 is safe, float16 overflows with SDXL's own weights.
    """

    unit = 1  # latent rows: nothing is downsampled

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self._context = Context.alone(NormMode.SYNCHRONOUS)
        self._levels = len(vae.config.block_out_channels)
        self._layers = [SplitLayers(vae.decoder, self._context, self._halvings)]
        if vae.post_quant_conv is not None:
            self._layers.append(SplitLayers(vae.post_quant_conv, self._context, self._halvings))

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent element."""
        return 1 << (self._levels - 1)

    def decode(self, latent_BCHW: Tensor, axis: Axis) -> tuple[Tensor, Patches]:
        """This rank's patch of the image, and how the image is split.

        Args:
            latent_BCHW: the whole latent as the sampler ends with it, equal on all ranks of the axis.
            axis: the ranks that share the work.

        Returns:
            A patch of shape B3hw, about -1 to 1, and the patches in pixels.

        Communication: within the layers; blocks.

        Raises:
            TooManyRanks: fewer latent rows than ranks; on all ranks.
        """
        config, context = self.vae.config, self._context
        patches = split(latent_BCHW.shape[2], latent_BCHW.shape[3], axis.size, unit=self.unit)
        context.axis, context.patches, context.evaluation = axis, patches, EXACT
        context.exchange = Exchange(axis)
        z_BCHW = patches.cut(latent_BCHW, axis.index).to(self.vae.dtype) / config.scaling_factor
        if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
            mean = z_BCHW.new_tensor(config.latents_mean).view(1, -1, 1, 1)
            std = z_BCHW.new_tensor(config.latents_std).view(1, -1, 1, 1)
            z_BCHW = z_BCHW * std + mean
        if self.vae.post_quant_conv is not None:
            z_BCHW = self.vae.post_quant_conv(z_BCHW)
        return torch.as_tensor(self.vae.decoder(z_BCHW)), patches.at(1 - self._levels)

    def remove(self) -> None:
        """Give the plain network back."""
        for layers in self._layers:
            layers.remove()

    def _halvings(self, site: str) -> int:
        part, _, rest = site.partition(".")
        if part == "up_blocks":
            return -int(rest.split(".")[0])
        return 1 - self._levels if part == "conv_norm_out" else 0
