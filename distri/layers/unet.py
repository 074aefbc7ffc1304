"""SDXL's UNet on one rank's patch of the latent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distri.layers import arithmetic
from distri.layers.context import Context
from distri.layers.kernels.fused import FusedKernels
from distri.layers.plan import SplitLayers
from distri.layers.resolution import halvings_of
from distri.ranks.errors import Unsplittable
from distri.ranks.exchange import Exchange, Exchanges
from distri.ranks.mesh import Axis
from distri.ranks.patches import MOST_WORK, Patches, TokenBalance, split
from distri.ranks.phase import Evaluation, NormMode


@dataclass(frozen=True)
class Conditions:
    """What the UNet gets besides latent and time; B counts both halves of guidance where they are one batch.

    Attributes:
        text: BLC, prompt embeddings of both text encoders side by side.
        pooled: BC, pooled embedding of the second encoder.
        time_ids: B6, original height and width, crop top and left, target height and width, in pixels.
    """

    text: Tensor
    pooled: Tensor
    time_ids: Tensor


def together(parts: Sequence[Conditions]) -> Conditions:
    """Several conditions as one batch, in their order."""
    return Conditions(
        torch.cat([part.text for part in parts]),
        torch.cat([part.pooled for part in parts]),
        torch.cat([part.time_ids for part in parts]),
    )


class SplitUNet:
    """A diffusers `UNet2DConditionModel` whose evaluations are shared by the ranks of an axis.

    Each rank calls it with the whole latent and gets its patch of the noise prediction. On an axis of one rank it is
    the plain network. `remove` restores the network.

    Args:
        unet: SDXL's architecture with any widths; it may be used plainly in between only after `remove`.
        norm_mode: where GroupNorm's statistics come from in the displaced phase.
        most_work: of a rank, times the mean of all, before it hands tokens on; see `distri.ranks.patches.TokenBalance`.
        kept_shapes: how many shapes keep their buffers.
        kernels: the fused kernels; None is those that a GPU has.
    """

    def __init__(
        self,
        unet: Any,
        *,
        norm_mode: NormMode = NormMode.CORRECTED,
        most_work: float = MOST_WORK,
        kept_shapes: int = 4,
        kernels: FusedKernels | None = None,
    ) -> None:
        if unet.config.time_cond_proj_dim is not None:
            raise Unsplittable(
                "time_embedding", "TimestepEmbedding", "distilled guidance (time_cond_proj_dim) is not known"
            )
        if unet.config.downsample_padding != 1:
            found = f"downsample_padding is {unet.config.downsample_padding}; only 1, SDXL's, is known"
            raise Unsplittable("down_blocks", "Downsample2D", found)
        self.unet = unet
        self.exchanges = Exchanges(kept_shapes)
        self._most_work = most_work
        self._context = Context.alone(norm_mode, kernels or FusedKernels(), like=unet.conv_in.weight)
        self._layers = SplitLayers(unet, self._context, partial(halvings_of, unet))
        self._conditions: Conditions | None = None

    @property
    def unit(self) -> int:
        """Latent rows that stay on one rank, so that every stride-2 layer starts on an even row."""
        return unit_of(self.unet)

    def begin(self, conditions: Conditions, axis: Axis, height: int, width: int) -> Patches:
        """Prepare for one image; no communication.

        Args:
            conditions: of the image; keys and values of the text are computed once from them.
            axis: the ranks that share the latent.
            height, width: of the latent.

        Returns:
            How the latent is split among the ranks of the axis.

        Raises:
            TooManyRanks: the latent has fewer units than the axis has ranks; on all ranks.
        """
        context = self._context
        patches = patches_of(self.unet, height, width, axis.size, most_work=self._most_work)
        context.exchange.drain()
        context.axis, context.patches = axis, patches
        batch = conditions.text.shape[0]
        shape = (axis.name, axis.ranks, batch, height, width, self.unet.dtype, context.norm_mode)
        context.exchange = self.exchanges.get(shape, lambda: Exchange(axis))
        context.text.clear()
        self._conditions = conditions
        return patches

    def __call__(self, latent_BCHW: Tensor, timestep: Tensor, evaluation: Evaluation) -> Tensor:
        """This rank's patch of the noise prediction.

        Args:
            latent_BCHW: the whole scaled latent, equal on all ranks of the axis, in the network's dtype.
            timestep: as the scheduler has it, a float where it is one.
            evaluation: synchronous or displaced; a displaced one must follow one that published.

        Communication: see the layers. Blocks on the other ranks in the synchronous phase.
        """
        if self._conditions is None:
            raise AssertionError("begin comes before the first evaluation")
        context, conditions = self._context, self._conditions
        context.evaluation = evaluation
        (noise_BCHW,) = self.unet(
            context.patches.cut(latent_BCHW, context.axis.index).contiguous(memory_format=context.memory_format),
            timestep,
            encoder_hidden_states=conditions.text,
            added_cond_kwargs={"text_embeds": conditions.pooled, "time_ids": conditions.time_ids},
            return_dict=False,
        )
        context.exchange.end_evaluation()
        return torch.as_tensor(noise_BCHW).contiguous()

    def end(self) -> None:
        """Wait for messages in flight and forget the image; its buffers stay for the next of that shape."""
        self._context.exchange.drain()
        self._context.text.clear()
        self._conditions = None

    def remove(self) -> None:
        """Restore the plain network."""
        self.end()
        self._layers.remove()


def unit_of(unet: Any) -> int:
    """Latent rows that stay on one rank, so that every stride-2 layer starts on an even row."""
    return 1 << (len(unet.config.block_out_channels) - 1)


def patches_of(unet: Any, height: int, width: int, count: int, *, most_work: float = MOST_WORK) -> Patches:
    """How a latent is split among so many ranks, for this network.

    Raises:
        TooManyRanks: the latent has fewer units than there are ranks.
    """
    rows_share = arithmetic.of_unet(unet, height, width).rows_share
    return replace(split(height, width, count, unit=unit_of(unet)), balance=TokenBalance(rows_share, most_work))
