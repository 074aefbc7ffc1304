"""What one pass of one image consists of, and how the ranks work together on passes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from distri.model.schedulers import Steps
from distri.sampling.conditions import PassConditions
from distri.sampling.guidance import Guidance
from distri.sampling.schedule import Schedule


@dataclass(frozen=True)
class Denoising:
    """One pass of one image.

    Attributes:
        steps: its walk through its timesteps, with equal state on all ranks.
        conditions: of the prompts and, when guidance is on, of the negative half, step by step.
        guidance: how the halves are combined, and when.
        window: side in latent elements of the windows that self-attention is computed in; None is the whole.
    """

    steps: Steps
    conditions: PassConditions
    guidance: Guidance
    window: int | None = None


@dataclass(frozen=True)
class SamplingOptions:
    """How ranks work together on it.

    Attributes:
        schedule: which evaluations wait for the other ranks.
        idle_ranks: whether ranks may be left without a part where the latent has too few units for all.
        low_memory: whether to use little memory: all ranks of the replica are patches, conditions are evaluated one
            after the other, and nothing is kept for the next evaluation.
    """

    schedule: Schedule
    idle_ranks: bool = False
    low_memory: bool = False


def noise(generator: torch.Generator, channels: int, height: int, width: int) -> Tensor:
    """Unit noise for the whole latent, drawn on the CPU: it depends on neither ranks, neighbours nor device."""
    return torch.randn((1, channels, height, width), generator=generator, device="cpu", dtype=torch.float32)
