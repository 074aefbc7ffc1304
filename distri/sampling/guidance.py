"""Classifier-free guidance: how the two halves of a noise prediction become one."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How both halves of classifier-free guidance are combined.

    Attributes:
        scale: of the difference between the halves; at most 1 means that the negative half is not evaluated.
        rescale: share of the guided prediction that is brought back to the deviation of the prompt's own prediction,
            over the whole image (Lin et al. 2023, section 3.4).
        composed: whether the prompt's prediction is itself put together from several and the negative half.
    """

    scale: float
    rescale: float = 0.0
    composed: bool = False

    @property
    def on(self) -> bool:
        return self.scale > 1.0 or self.composed

    def combined(self, negative: Tensor, positive: Tensor) -> Tensor:
        """The guided noise prediction of the whole image."""
        guided = negative + max(1.0, self.scale) * (positive - negative)
        if self.rescale <= 0.0:
            return guided
        axes = tuple(range(1, guided.ndim))
        matched = guided * (positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        return self.rescale * matched + (1 - self.rescale) * guided


def compose(negative: Tensor, positives: Sequence[Tensor], weights_KB: Tensor) -> Tensor:
    """The prediction of prompts whose guidance is added up, each with its weight (Liu et al. 2022, section 4).

    Args:
        negative: BCHW, what all of them are guided away from.
        positives: of K prompts, likewise.
        weights_KB: by prompt and image; negative ones guide away.
    """
    composed = negative
    for positive, weights_B in zip(positives, weights_KB, strict=True):
        composed = composed + weights_B.view(-1, *[1] * (negative.ndim - 1)) * (positive - negative)
    return composed
