"""What every split layer reads and none of them changes: where the evaluation stands."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from distri.layers.kernels.fused import FusedKernels
from distri.layers.references import ReferenceRows
from distri.layers.strip_norms import StripNorms
from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis, axis_of_one
from distri.ranks.patches import ROWS, Patches
from distri.ranks.phase import EXACT, Evaluation, NormMode
from distri.ranks.residuals import Keep, Residuals


@dataclass
class Context:
    """Set by the network's owner before an evaluation, read by its layers.

    Attributes:
        axis: the ranks that share the image.
        patches: how its latent is split among them.
        exchange: the buffers for this shape on this axis.
        evaluation: phase of the current evaluation.
        near_output: what the names of those layers begin with whose keys and values are seen as halos and moments are.
        norm_mode: GroupNorm in the displaced phase.
        keep: whether keys and values of peers cross whole or as residuals.
        residuals: what is kept for the latter, of this shape on this axis.
        window: side in latent elements of the window that self-attention sees; None means the whole image.
        text: keys and values of cross-attention by layer, of this image's text and references; the references' masks.
        references: pictures that cross-attention attends to beside the text.
        kernels: the fused kernels, and which of them are used.
        channels_last: whether the network is laid so.
        strips: what norms know of the whole image while a patch is computed in strips.
        side_by_side: whether keys and values of all ranks stand in one buffer, so that nothing is joined.
    """

    axis: Axis
    patches: Patches
    exchange: Exchange
    evaluation: Evaluation = EXACT
    near_output: str = ""
    norm_mode: NormMode = NormMode.CORRECTED
    keep: Keep = Keep.NOTHING
    residuals: Residuals = field(default_factory=Residuals)
    window: int | None = None
    text: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    references: tuple[ReferenceRows, ...] = ()
    kernels: FusedKernels = field(default_factory=FusedKernels)
    channels_last: bool = False
    side_by_side: bool = False
    strips: StripNorms | None = None
    _activated: tuple[Tensor, Tensor] | None = None

    @classmethod
    def alone(cls, norm_mode: NormMode, kernels: FusedKernels, *, like: Tensor) -> "Context":
        """One rank that holds the whole image: what a network's layers read before the first `begin`.

        Args:
            norm_mode: GroupNorm in the displaced phase.
            kernels: the fused kernels; they say whether the network is laid channels last.
            like: one of the network's weights.
        """
        patches, exchange = Patches(1, 1, ROWS, (0, 1)), Exchange(axis_of_one())
        last = kernels.channels_last(like)
        return cls(
            axis_of_one(),
            patches,
            exchange,
            norm_mode=norm_mode,
            kernels=kernels,
            channels_last=last,
            # A copy saved; a message more a bucket, which costs gloo more than the copy.
            side_by_side=like.is_cuda,
        )

    def silu_of(self, embedding: Tensor) -> Tensor:
        """SiLU of the embedding of the time, which all residual blocks of an evaluation are given: computed once."""
        if self._activated is None or self._activated[0] is not embedding:
            self._activated = embedding, functional.silu(embedding)
        return self._activated[1]

    @property
    def memory_format(self) -> torch.memory_format:
        """In which order an activation of four dimensions lies in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def split(self) -> bool:
        """Whether there is anyone to share the image with."""
        return self.axis.size > 1

    @property
    def evaluation_of_rest(self) -> Evaluation:
        """How halos, moments and tokens handed on are seen, which are few bytes beside keys and values."""
        return self.evaluation.of_rest

    def evaluation_of_kv(self, site: str) -> Evaluation:
        """How keys and values of a layer are seen."""
        near = self.near_output and site.startswith(self.near_output)
        return self.evaluation.of_rest if near else self.evaluation
