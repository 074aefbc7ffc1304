"""The VAE on one rank's patch of the image: exact, with about 1/N of the activations on each of N ranks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distri.layers import strips
from distri.layers.context import Context
from distri.layers.kernels.fused import FusedKernels
from distri.layers.plan import SplitLayers
from distri.layers.strips import Piece
from distri.ranks.errors import BadSize
from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis
from distri.ranks.patches import Patches, split
from distri.ranks.phase import EXACT, NormMode

# Of a strip's widest activation. Smaller ones compute more rows twice; larger ones are no faster.
MOST_STRIP_BYTES = 1 << 30
STRIPS_AT_LEAST = 4  # else a strip holds as much as the whole


class SplitVAE:
    """A diffusers `AutoencoderKL` whose encoding and decoding are shared by the ranks of an axis.

    Always synchronous: halos for convolutions, merged moments for GroupNorm, and each rank's own queries over gathered
    keys and values in the middle attention. `remove` restores the network.

    Args:
        vae: in the dtype to compute in; float32 is safe, float16 overflows with SDXL's own weights.
        most_bytes: of one activation of a rank's patch; what is wider is computed in strips (`distri.layers.strips`).
        kernels: the fused kernels; None is those that a GPU has.
    """

    unit = 1  # latent rows: nothing is downsampled

    def __init__(self, vae: Any, *, kernels: FusedKernels | None = None, most_bytes: float = math.inf) -> None:
        self.vae = vae
        self.most_bytes = most_bytes
        self._context = Context.alone(NormMode.SYNCHRONOUS, kernels or FusedKernels(), like=vae.decoder.conv_in.weight)
        self._levels = len(vae.config.block_out_channels)
        self._layers = [
            SplitLayers(vae.decoder, self._context, self._halvings_decoding),
            SplitLayers(vae.encoder, self._context, self._halvings_encoding),
            *(
                SplitLayers(pointwise, self._context, self._halvings_encoding)
                for pointwise in (vae.quant_conv, vae.post_quant_conv)
                if pointwise is not None
            ),
        ]

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
        config = self.vae.config
        patches = self._begin(latent_BCHW.shape[2], latent_BCHW.shape[3], axis)
        z_BCHW = patches.cut(latent_BCHW, axis.index).to(self.vae.dtype) / config.scaling_factor
        if (statistics := self._statistics(z_BCHW)) is not None:
            mean, deviation = statistics
            z_BCHW = z_BCHW * deviation + mean
        if self.vae.post_quant_conv is not None:
            z_BCHW = self.vae.post_quant_conv(z_BCHW)
        decoded_BCHW = self._through(strips.decoder_pieces(self.vae.decoder), self._laid(z_BCHW), patches)
        return decoded_BCHW.contiguous(), patches.at(1 - self._levels)

    def encode(self, image_BCHW: Tensor, axis: Axis) -> tuple[Tensor, Tensor, Patches]:
        """This rank's patch of what the VAE makes of an image, and how the latent is split.

        Args:
            image_BCHW: the whole image, -1 to 1, equal on all ranks of the axis.
            axis: the ranks that share the work.

        Returns:
            Mean and deviation of the latent, scaled as the sampler wants it, each of shape BChw; and the patches of
            the latent. The mean is the most likely latent, without a draw.

        Communication: within the layers; blocks.

        Raises:
            BadSize: a side is no multiple of the factor; on all ranks.
            TooManyRanks: fewer latent rows than ranks; on all ranks.
        """
        height, width = image_BCHW.shape[2:]
        if height % self.factor or width % self.factor:
            raise BadSize(width, height, f"to encode it, both sides must be multiples of {self.factor}")
        patches = self._begin(height // self.factor, width // self.factor, axis)
        pixels = patches.at(1 - self._levels)
        own_BCHW = pixels.cut(image_BCHW, axis.index).to(self.vae.dtype)
        moments_BCHW = self._through(strips.encoder_pieces(self.vae.encoder), self._laid(own_BCHW), pixels)
        if self.vae.quant_conv is not None:
            moments_BCHW = self.vae.quant_conv(moments_BCHW)
        mean_BCHW, log_variance_BCHW = moments_BCHW.contiguous().chunk(2, dim=1)
        deviation_BCHW = torch.exp(0.5 * log_variance_BCHW.clamp(-30.0, 20.0))  # the bounds are diffusers'
        if (statistics := self._statistics(mean_BCHW)) is not None:
            mean, deviation = statistics
            mean_BCHW, deviation_BCHW = (mean_BCHW - mean) / deviation, deviation_BCHW / deviation
        scale = self.vae.config.scaling_factor
        return mean_BCHW * scale, deviation_BCHW * scale, patches

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute in float32 within the block. The weights are afterwards what they were, bit for bit."""
        dtype = self.vae.dtype
        with torch.inference_mode(False):
            self.vae.to(torch.float32)
        try:
            yield
        finally:
            with torch.inference_mode(False):
                self.vae.to(dtype)

    def remove(self) -> None:
        """Restore the plain network."""
        for layers in self._layers:
            layers.remove()

    def _through(self, pieces: Sequence[Piece], x_BCHW: Tensor, patches: Patches) -> Tensor:
        """This rank's patch of what the pieces give; segments that are too wide in strips. Blocks.

        Which these are follows from shapes alone, so it is the same on all ranks.
        """
        for segment in strips.segments_of(pieces):
            pixels = x_BCHW.shape[0] * max(patches.areas)
            widest_bytes = segment.widest_numbers(pixels) * x_BCHW.element_size()
            if widest_bytes > self.most_bytes and strips.is_divisible(segment, patches):
                size = max(1, int(min(MOST_STRIP_BYTES, self.most_bytes / STRIPS_AT_LEAST)))
                x_BCHW = strips.in_strips(segment, x_BCHW, patches, self._context, strip_bytes=size)
            else:
                x_BCHW = strips.walk(segment, x_BCHW)
            patches = patches.at(segment.halvings)
        return x_BCHW

    def _laid(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.contiguous(memory_format=self._context.memory_format)

    def _begin(self, height: int, width: int, axis: Axis) -> Patches:
        """Split a latent, and tell the layers."""
        patches = split(height, width, axis.size, unit=self.unit)
        context = self._context
        context.axis, context.patches, context.evaluation = axis, patches, EXACT
        context.exchange = Exchange(axis)
        return patches

    def _statistics(self, like_BCHW: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation that this VAE's latents are shifted by, if it has any."""
        mean, deviation = (getattr(self.vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or deviation is None:
            return None
        return like_BCHW.new_tensor(mean).view(1, -1, 1, 1), like_BCHW.new_tensor(deviation).view(1, -1, 1, 1)

    def _halvings_decoding(self, site: str) -> int:
        part, _, rest = site.partition(".")
        if part == "up_blocks":
            return -int(rest.split(".")[0])
        return 1 - self._levels if part == "conv_norm_out" else 0

    def _halvings_encoding(self, site: str) -> int:
        part, _, rest = site.partition(".")
        return 1 - self._levels + int(rest.split(".")[0]) if part == "down_blocks" else 0
