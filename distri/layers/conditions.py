"""What the UNet is conditioned on besides latent and time, for the rows of an evaluation."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distri.layers.references import ReferenceRows, references_together


@dataclass(frozen=True)
class Conditions:
    """What the UNet gets besides latent and time; B counts both halves of guidance where they are one batch.

    Attributes:
        text: BLC, prompt embeddings of both text encoders side by side.
        pooled: BC, pooled embedding of the second encoder.
        time_ids: B6, original height and width, crop top and left, target height and width, in pixels.
        references: pictures that cross-attention attends to beside the text.
    """

    text: Tensor
    pooled: Tensor
    time_ids: Tensor
    references: tuple[ReferenceRows, ...] = field(default=(), kw_only=True)

    @property
    def kind(self) -> Hashable:
        """What recordings that read it have in common."""
        return tuple(self.text.shape), tuple(reference.kind for reference in self.references)


def together(parts: Sequence[Conditions]) -> Conditions:
    """Several conditions as one batch, in their order."""
    return Conditions(
        torch.cat([part.text for part in parts]),
        torch.cat([part.pooled for part in parts]),
        torch.cat([part.time_ids for part in parts]),
        references=references_together([part.references for part in parts]),
    )
