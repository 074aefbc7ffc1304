"""From noise to the final latent of one pass: guidance, and the scheduler's steps on the whole latent."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.layers.unet import Conditions, SplitUNet, together
from distri.model.schedulers import BatchSteps
from distri.ranks.errors import LeaderFailed, Stopped
from distri.ranks.mesh import Mesh
from distri.ranks.patches import split
from distri.ranks.phase import Evaluation, Phase
from distri.sampling.conditions import PassConditions
from distri.sampling.control import Control, follow_leader
from distri.sampling.guidance import Guidance, compose
from distri.sampling.schedule import Phases, Schedule
from distri.sampling.sharing import gather_prediction, sharing_of


@dataclass(frozen=True)
class Denoising:
    """What is denoised: a batch of images of one size, often of one.

    Attributes:
        steps: the images' walk through their timesteps, with equal state on all ranks.
        conditions: of the prompts and, when guidance is on, of the negative half, step by step.
        guidance: how the halves are combined.
    """

    steps: BatchSteps
    conditions: PassConditions
    guidance: Guidance


@dataclass(frozen=True)
class SamplingOptions:
    """How ranks work together on it.

    Attributes:
        schedule: which evaluations wait for the other ranks.
        idle_ranks: whether ranks may be left without a part where the latent has too few units for all.
        low_memory: whether to use little memory: all ranks of the replica are patches, the halves of guidance are
            evaluated one after the other, and nothing is kept for the next evaluation.
    """

    schedule: Schedule
    idle_ranks: bool = False
    low_memory: bool = False


@dataclass(frozen=True)
class Sampled:
    """The end of denoising.

    Attributes:
        latent: whole, BCHW, one per image, float32, equal on all ranks of the replica.
        synchronous, displaced: how many evaluations were which.
    """

    latent: Tensor
    synchronous: int
    displaced: int


def noise(generator: torch.Generator, channels: int, height: int, width: int) -> Tensor:
    """Unit noise for the whole latent, drawn on the CPU: it depends on neither ranks, batch nor device."""
    return torch.randn((1, channels, height, width), generator=generator, device="cpu", dtype=torch.float32)


def halves_apart(mesh: Mesh, guidance: Guidance, *, low_memory: bool) -> bool:
    """Whether each half of guidance is evaluated by ranks of its own."""
    return guidance.on and mesh.layout.cfg == 2 and not low_memory


def denoise(
    unet: SplitUNet,
    mesh: Mesh,
    latent_BCHW: Tensor,
    denoising: Denoising,
    options: SamplingOptions,
    *,
    control: Callable[[], Control],
) -> Sampled:
    """Denoise a batch of images. All ranks of the replica call it together; blocks.

    Args:
        unet: split.
        mesh: whose replica shares the images.
        latent_BCHW: the whole latents to begin with, float32, equal on all ranks.
        denoising: the images' steps, conditions and guidance.
        options: how the ranks work together.
        control: asked on the leader only, before every evaluation; its answer holds for the replica.

    Communication: one number from the leader and one gather of the noise prediction per evaluation; the UNet's own.
    Between the first and the last evaluation the program reads nothing from a GPU and waits for it only when two
    evaluations ahead.

    Raises:
        Stopped: the leader decided to stop; on all ranks.
        LeaderFailed: the leader's control raised; on the other ranks.
        TooManyRanks: on all ranks, before any communication.
    """
    predictor = _Predictor(unet, mesh, latent_BCHW.shape, denoising, options)
    steps, timesteps, on_device = denoising.steps, denoising.steps.timesteps, denoising.steps.timesteps_on_device()
    split = predictor.ranks > 1 and not options.low_memory
    waits = {step * steps.order for step in denoising.conditions.changes}
    phases = Phases(options.schedule, len(timesteps), split=split, lag=int(mesh.device.type == "cuda"), waits=waits)
    count = {Phase.SYNCHRONOUS: 0, Phase.DISPLACED: 0}
    try:
        for index, timestep in enumerate(timesteps):
            evaluation = phases.evaluation(index)
            if follow_leader(mesh, control, index, resync=phases.wants_resync(evaluation)):
                evaluation = phases.resync_after(index)
            count[evaluation.phase] += 1
            with mesh.progress.evaluation(f"evaluation {index + 1} of {len(timesteps)}"):
                scaled_BCHW = steps.scaled(latent_BCHW, timestep)  # by idle ranks too: schedulers count
                predictor.go_to(index // steps.order)
                prediction_BCHW = predictor.predict(scaled_BCHW.to(unet.unet.dtype), on_device[index], evaluation)
                phases.note(prediction_BCHW)
                latent_BCHW = steps.step(prediction_BCHW, timestep, latent_BCHW).float()
    except (Stopped, LeaderFailed):
        unet.end()
        raise
    unet.end()
    return Sampled(latent_BCHW, count[Phase.SYNCHRONOUS], count[Phase.DISPLACED])


class _Predictor:
    """The guided noise prediction of whole latents, evaluated by the ranks of a replica.

    Args:
        unet: split; its image is begun.
        mesh: whose replica it is.
        shape: of the whole latents, BCHW.
        denoising: conditions and guidance.
        options: how the ranks work together.

    Raises:
        TooManyRanks: on all ranks.
    """

    def __init__(
        self, unet: SplitUNet, mesh: Mesh, shape: torch.Size, denoising: Denoising, options: SamplingOptions
    ) -> None:
        self._unet, self._mesh = unet, mesh
        self._guidance = denoising.guidance
        self._batch, self._channels, self._height, self._width = shape
        self._apart = halves_apart(mesh, denoising.guidance, low_memory=options.low_memory)
        self._sharing = sharing_of(
            mesh,
            apart=self._apart,
            height=self._height,
            width=self._width,
            unit=unet.unit,
            idle_ranks=options.idle_ranks,
        )
        self._axis = self._sharing.axis
        self._patches = split(self._height, self._width, self._sharing.count, unit=unet.unit)
        self._replay = not options.low_memory  # recordings keep their memory
        self._one_by_one = options.low_memory
        self._conditions, self._step = denoising.conditions, 0
        if self._guidance.on != (self._conditions.negative is not None):
            raise AssertionError("guidance needs the negative half, and nothing else does")
        self._turns = self._turns_of(0)
        self._begin(self._turns[0])

    @property
    def ranks(self) -> int:
        """How many ranks share one latent."""
        return self._sharing.count

    def go_to(self, step: int) -> None:
        """Take the conditions of a step, which is this one or a later one; no communication."""
        changed = self._conditions.changes.intersection(range(self._step + 1, step + 1))
        self._step = step
        if changed:
            self._turns = self._turns_of(step)
            if len(self._turns) == 1 and self._axis is not None:
                self._unet.change(self._turns[0])

    def predict(self, scaled_BCHW: Tensor, timestep: Tensor, evaluation: Evaluation) -> Tensor:
        """The guided noise prediction, float32, of whole latents in the network's dtype; blocks.

        Communication: the UNet's own, and one gather.
        """
        own_BCHW = scaled_BCHW.new_empty(0, dtype=torch.float32)
        if self._axis is not None:
            own_BCHW = torch.cat([self._evaluate(turn, scaled_BCHW, timestep, evaluation) for turn in self._turns])
        whole_BCHW = gather_prediction(
            self._mesh.replica if self._apart else self._sharing.whole,
            self._sharing.whole.size,
            self._patches,
            own_BCHW,
            [self._batch * count for count in self._shares],
            channels=self._channels,
        )
        if not self._guidance.on:
            return whole_BCHW
        negative, *positives = whole_BCHW.chunk(sum(self._shares))
        weights_KB = self._conditions.weights
        positive = positives[0] if weights_KB is None else compose(negative, positives, weights_KB)
        return self._guidance.combined(negative, positive)

    @property
    def _shares(self) -> tuple[int, ...]:
        """How many conditions the ranks of each half evaluate; all ranks evaluate all where halves are not apart."""
        count = self._conditions.count + int(self._guidance.on)
        return (count - count // 2, count // 2) if self._apart else (count,)

    def _evaluate(self, turn: Conditions, scaled_BCHW: Tensor, timestep: Tensor, evaluation: Evaluation) -> Tensor:
        if len(self._turns) > 1:
            self._begin(turn)
        copies = turn.text.shape[0] // self._batch  # 2 where both halves are one batch
        return self._unet(scaled_BCHW.repeat(copies, 1, 1, 1), timestep, evaluation).float()

    def _begin(self, turn: Conditions) -> None:
        if self._axis is not None:
            self._unet.begin(turn, self._axis, self._height, self._width, replay=self._replay)

    def _turns_of(self, step: int) -> list[Conditions]:
        """What this rank evaluates at a step, one batch after the other.

        Without guidance the prompt; with it the negative half and the prompts as one batch, or those that fall to this
        rank's half, or one after the other.
        """
        found = self._conditions.at(step)
        if self._apart:
            first = self._shares[0]
            found = found[first:] if self._mesh.cfg_index else found[:first]
        return found if self._one_by_one else [together(found)]
