"""One image's pass: its latent, and where it stands between noise and the end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distri.layers.unet import Conditions
from distri.ranks.phase import Evaluation, Phase
from distri.sampling.denoising import Denoising
from distri.sampling.guidance import compose
from distri.sampling.schedule import Place


class Slot:
    """One image's pass. Scheduler, generator and history are its own: it comes out as it would alone.

    Args:
        latent_1CHW: whole, float32, equal on all ranks.
        denoising: its steps, conditions and guidance.

    Attributes:
        latent_1CHW: as far as it has come.
        index: how many evaluations are behind it.
        synchronous, displaced: how many of them were which.
        others: most images that were evaluated together with it at a time.
    """

    def __init__(self, latent_1CHW: Tensor, denoising: Denoising) -> None:
        steps, conditions, guidance = denoising.steps, denoising.conditions, denoising.guidance
        if guidance.on != (conditions.negative is not None):
            raise AssertionError("guidance needs the negative half, and nothing else does")
        self.latent_1CHW = latent_1CHW
        self.index = self.synchronous = self.displaced = self.others = 0
        self._denoising = denoising
        self._timesteps = steps.timesteps
        self._on_device = steps.timesteps_on_device().to(torch.float32)  # what the network makes of any
        self._guided = [guidance.on_at(steps.share(index)) for index in range(self.total)]
        switches = {index for index in range(1, self.total) if self._guided[index] != self._guided[index - 1]}
        self._waits = frozenset(switches | {step * steps.order for step in conditions.changes})

    @property
    def total(self) -> int:
        """How many evaluations the pass has."""
        return len(self._timesteps)

    @property
    def left(self) -> int:
        """How many of them are to come."""
        return self.total - self.index

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.index, self.total, self._waits)

    @property
    def guided(self) -> bool:
        """Whether the next evaluation needs the negative half."""
        return self._guided[self.index]

    @property
    def timestep(self) -> Tensor:
        """Of the next evaluation: one float32 where the latent is."""
        return self._on_device[self.index]

    def conditions(self) -> list[Conditions]:
        """What the next evaluation is conditioned on: one row each, the negative half's first where it is guided."""
        step = self.index // self._denoising.steps.order
        return self._denoising.conditions.at(step, guided=self.guided)

    def text_lengths(self) -> set[int]:
        """Of all its conditions, in tokens."""
        own = self._denoising.conditions
        timelines = (*own.positives, *([own.negative] if own.negative is not None else []))
        return {one.text.shape[1] for timeline in timelines for one in timeline.values}

    def scaled(self) -> Tensor:
        """The latent as the network wants it; call it once an evaluation, since schedulers count."""
        return self._denoising.steps.scaled(self.latent_1CHW, self._timesteps[self.index])

    def step(self, predictions: Sequence[Tensor], evaluation: Evaluation, *, others: int) -> Tensor:
        """Go on by one evaluation, whose predictions, 1CHW in float32, stand in the order of `conditions`.

        Returns:
            The guided noise prediction.
        """
        prediction_1CHW = self._combined(predictions)
        timestep = self._timesteps[self.index]
        self.latent_1CHW = self._denoising.steps.step(prediction_1CHW, timestep, self.latent_1CHW).float()
        self.index += 1
        self.others = max(self.others, others)
        if evaluation.phase is Phase.SYNCHRONOUS:
            self.synchronous += 1
        else:
            self.displaced += 1
        return prediction_1CHW

    def _combined(self, predictions: Sequence[Tensor]) -> Tensor:
        if not self.guided:
            (prediction_1CHW,) = predictions
            return prediction_1CHW
        negative, *positives = predictions
        conditions = self._denoising.conditions
        composed = conditions.composed
        positive = compose(negative, positives, conditions.weights) if composed else positives[0]
        return self._denoising.guidance.combined(negative, positive)
