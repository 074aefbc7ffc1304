"""One image's pass: its latent, and where it stands between noise and the end."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distri.layers.conditions import Conditions
from distri.model.sampling.host_numbers import upload
from distri.ranks.phase import Evaluation, Phase
from distri.sampling.denoising import Denoising, Kept, PassControl, noise
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
        predicted: the latent without noise as each evaluation saw it, where the pass is for that; as the last one saw
            it, where a larger picture goes on from it.
    """

    def __init__(self, latent_1CHW: Tensor, denoising: Denoising) -> None:
        steps, conditions, guidance = denoising.steps, denoising.conditions, denoising.guidance
        if guidance.on != (conditions.negative is not None):
            raise AssertionError("guidance needs the negative half, and nothing else does")
        self.latent_1CHW = latent_1CHW
        self.predicted: list[Tensor] = []
        self.index = self.synchronous = self.displaced = self.others = 0
        self._denoising = denoising
        self._timesteps = steps.timesteps
        self._on_device = steps.timesteps_on_device().to(torch.float32)  # what the network makes of any
        self._guided = [guidance.on_at(steps.share(index)) for index in range(self.total)]
        switches = {index for index in range(1, self.total) if self._guided[index] != self._guided[index - 1]}
        active = [self._active_at(index) for index in range(self.total)]
        switches |= {index for index in range(1, self.total) if active[index] != active[index - 1]}
        if denoising.redraws is not None:  # what is stale is of other noise
            switches |= set(range(self.total))
        self._waits = frozenset(switches | {step * steps.order for step in conditions.changes})

    @property
    def total(self) -> int:
        """How many evaluations the pass has."""
        return len(self._timesteps)

    @property
    def kept(self) -> Kept | None:
        """What stays of a picture in it."""
        return self._denoising.kept

    @property
    def left(self) -> int:
        """How many of them are to come."""
        return self.total - self.index

    @property
    def level(self) -> float:
        """Timestep of the last evaluation."""
        return float(self._timesteps[self.index - 1])

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.index, self.total, self._waits)

    @property
    def guided(self) -> bool:
        """Whether the next evaluation needs the negative half."""
        return self._guided[self.index]

    @property
    def control(self) -> tuple[PassControl, ...]:
        """What steers the pass, whether now or not."""
        return self._denoising.control

    @property
    def active(self) -> tuple[bool, ...]:
        """Which of them steer the next evaluation."""
        return self._active_at(self.index)

    def _active_at(self, index: int) -> tuple[bool, ...]:
        return tuple(one.on_at(index, self.total) for one in self.control)

    @property
    def timestep(self) -> Tensor:
        """Of the next evaluation: one float32 where the latent is."""
        return self._on_device[self.index]

    def conditions(self) -> list[Conditions]:
        """What the next evaluation is conditioned on: one row each, the negative half's first where it is guided."""
        step = self.index // self._denoising.steps.order
        return self._denoising.conditions.at(step, guided=self.guided)

    @property
    def rows(self) -> int:
        """How many conditions the next evaluation has."""
        return len(self.conditions())

    @property
    def most_rows(self) -> int:
        """How many any evaluation of the pass has at most."""
        return len(self._denoising.conditions.positives) + int(any(self._guided))

    def text_lengths(self) -> set[int]:
        """Of all its conditions, in tokens."""
        own = self._denoising.conditions
        timelines = (*own.positives, *([own.negative] if own.negative is not None else []))
        return {one.text.shape[1] for timeline in timelines for one in timeline.values}

    def scaled(self) -> Tensor:
        """The latent as the network wants it, with what it reads beside it; once an evaluation: schedulers count."""
        scaled_1CHW = self._denoising.steps.scaled(self.latent_1CHW, self._timesteps[self.index])
        around = self._denoising.around
        return scaled_1CHW if around is None else torch.cat([scaled_1CHW, around.to(scaled_1CHW.dtype)], dim=1)

    def step(self, predictions: Sequence[Tensor], evaluation: Evaluation, *, others: int) -> Tensor:
        """Go on by one evaluation, whose predictions, 1CHW in float32, stand in the order of `conditions`.

        Returns:
            The guided noise prediction.
        """
        prediction_1CHW = self._combined(predictions)
        timestep = self._timesteps[self.index]
        steps, kept = self._denoising.steps, None if self._denoising.around is not None else self._denoising.kept
        if self._denoising.redraws is not None or (steps.grows and self.left == 1):
            self.predicted.append(steps.predicted(prediction_1CHW, self.latent_1CHW, self.index))
        if self._denoising.redraws is not None:
            clean_1CHW = self.predicted[-1]
            unit = upload(noise(self._denoising.redraws, *clean_1CHW.shape[1:]), clean_1CHW.device)
            latent_1CHW = steps.noised(clean_1CHW, unit, self.index + 1)
            kept = None if kept is None else replace(kept, noise=unit)
        else:
            latent_1CHW = steps.step(prediction_1CHW, timestep, self.latent_1CHW).float()
        self.index += 1
        self.latent_1CHW = latent_1CHW if kept is None else kept.around(latent_1CHW, steps, self.index).float()
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
