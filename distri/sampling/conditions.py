"""What the network is given at which step of a pass: conditions of the negative prompt and of the prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.layers.unet import Conditions, together
from distri.model.timeline import Timeline

Batch = tuple[Timeline[Conditions], ...]  # one an image


@dataclass(frozen=True)
class PassConditions:
    """What a batch of images is conditioned on in one pass; equal on all ranks.

    Attributes:
        negative: needed where guidance is on.
        positives: one for each prompt whose guidance is added up, mostly one.
        weights: KB, of their guidance, by prompt and image; None if all are 1 and there is one prompt.
    """

    negative: Batch | None
    positives: tuple[Batch, ...]
    weights: Tensor | None = None

    @classmethod
    def always(cls, positive: Conditions, negative: Conditions | None) -> "PassConditions":
        """Those of one image that do not change."""
        return cls(None if negative is None else (Timeline.always(negative),), ((Timeline.always(positive),),))

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self.positives)

    def at(self, step: int) -> list[Conditions]:
        """Those of the negative prompt, where there is one, and of the prompts; each has a row an image."""
        batches = self.positives if self.negative is None else (self.negative, *self.positives)
        return [together([timeline.at(step) for timeline in batch]) for batch in batches]

    @property
    def changes(self) -> frozenset[int]:
        """The steps at which any of them changes, but the first."""
        batches = self.positives if self.negative is None else (self.negative, *self.positives)
        return frozenset(step for batch in batches for timeline in batch for step in timeline.changes if step > 0)


def weights_of(weights: Sequence[Sequence[float]], device: torch.device) -> Tensor | None:
    """By image and prompt, as `PassConditions` has them."""
    if all(own == 1 for image in weights for own in image) and len(weights[0]) == 1:
        return None
    return torch.tensor(weights, dtype=torch.float32, device=device).t()
