"""What one pass of one image consists of, and how the ranks work together on passes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.model.sampling.schedulers import Steps
from distri.sampling.conditions import PassConditions
from distri.sampling.guidance import Guidance
from distri.sampling.schedule import Schedule


@dataclass(frozen=True)
class Kept:
    """What stays of a picture while a part of it is painted anew.

    After each step the rest of the latent is replaced by the picture's own, with as much noise as the step leaves: the
    blend of Avrahami et al. 2023 ("Blended Latent Diffusion"), as diffusers' StableDiffusionXLInpaintPipeline does it
    for a network of four channels.

    Attributes:
        latent: of the picture, whole, 1CHW, float32, equal on all ranks.
        noise: unit noise, 1CHW, that which the pass begins with.
        new: 11HW, 1 where the latent is painted anew, 0 where it stays.
        later: 11HW, the same below `level`; None is as above.
        level: a timestep.
    """

    latent: Tensor
    noise: Tensor
    new: Tensor
    later: Tensor | None = None
    level: float = math.inf

    def around(self, latent_1CHW: Tensor, steps: Steps, index: int) -> Tensor:
        """The latent before evaluation `index`, with what stays around what is painted anew. No communication."""
        kept_1CHW = steps.noised(self.latent, self.noise, index)
        new_11HW = self.new if self.later is None or steps.level(index) >= self.level else self.later
        return (1 - new_11HW) * kept_1CHW + new_11HW * latent_1CHW


@dataclass(frozen=True)
class PassControl:
    """A control network that steers a pass.

    Attributes:
        name: of the network.
        seen: what it makes of its picture in the pass's size, whole, each 1CHW, equal on all ranks.
        scale: what all that it adds is multiplied with.
        start, end: shares of the pass's evaluations between which it does.
    """

    name: str
    seen: tuple[Tensor, ...]
    scale: float
    start: float
    end: float

    def on_at(self, index: int, total: int) -> bool:
        """Whether it steers an evaluation: those that lie within the shares as a whole, as diffusers counts them."""
        return self.start <= index / total and (index + 1) / total <= self.end


@dataclass(frozen=True)
class Denoising:
    """One pass of one image.

    Attributes:
        steps: its walk through its timesteps, with equal state on all ranks.
        conditions: of the prompts and, when guidance is on, of the negative half, step by step.
        guidance: how the halves are combined, and when.
        window: side in latent elements of the windows that self-attention is computed in; None is the whole.
        kept: what stays of a picture; None is nothing.
        control: what steers it.
        around: what a network for inpainting reads beside the latent, 1EHW in float32: the mask, 1 where the picture is
            painted anew, and the latent of the picture without what is masked. What such a network gives is the whole
            picture, so nothing of `kept` is put into its latent. None is nothing.
        redraws: where all noise is drawn from anew after each evaluation, of a walk whose predictions are noted; None
            is the scheduler's own step.
    """

    steps: Steps
    conditions: PassConditions
    guidance: Guidance
    window: int | None = None
    kept: Kept | None = None
    control: tuple[PassControl, ...] = ()
    around: Tensor | None = None
    redraws: torch.Generator | None = None


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
