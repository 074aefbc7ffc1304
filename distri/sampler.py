"""From noise to the final latent of one image: phases, guidance, and the scheduler's steps on the whole latent."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from distri import wire
from distri.errors import LeaderFailed, Stopped, TooManyRanks
from distri.mesh import Axis, Mesh
from distri.patches import Patches, largest_degree
from distri.phase import Evaluation, Phase
from distri.schedulers import Steps
from distri.unet import Conditions, SplitUNet


class Control(IntEnum):
    """What the leader of a replica says before an evaluation."""

    GO = 0
    STOP = 1


_FAILED = -1  # on the wire only: the leader's callable raised


@dataclass(frozen=True)
class Guidance:
    """How both halves of classifier-free guidance are put together.

    Attributes:
        scale: of the difference between the halves; at most 1 means that the negative half is not evaluated.
        rescale: share of the guided prediction that is brought back to the deviation of the prompt's own prediction,
            over the whole image (Lin et al. 2023, section 3.4).
    """

    scale: float
    rescale: float = 0.0

    @property
    def on(self) -> bool:
        return self.scale > 1.0

    def combined(self, negative: Tensor, positive: Tensor) -> Tensor:
        """The guided noise prediction of the whole image."""
        guided = negative + self.scale * (positive - negative)
        if self.rescale <= 0.0:
            return guided
        axes = tuple(range(1, guided.ndim))
        matched = guided * (positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        return self.rescale * matched + (1 - self.rescale) * guided


@dataclass(frozen=True)
class Sampled:
    """The end of denoising.

    Attributes:
        latent: whole, 1CHW, float32, equal on all ranks of the replica.
        synchronous, displaced: how many evaluations were which.
    """

    latent: Tensor
    synchronous: int
    displaced: int


def noise(generator: torch.Generator, channels: int, height: int, width: int) -> Tensor:
    """Unit noise for the whole latent, drawn on the CPU: it depends on neither ranks, batch nor device."""
    return torch.randn((1, channels, height, width), generator=generator, device="cpu", dtype=torch.float32)


def sharing_axis(mesh: Mesh, *, guided: bool, height: int, width: int, unit: int) -> Axis:
    """The ranks that share one latent as patches.

    With guidance these are the ranks of one half. Without it there is one half only: where guidance has ranks of its
    own (cfg 2), all ranks of the replica become patches; if the latent has too few units for that, both halves do the
    same work redundantly.

    Raises:
        TooManyRanks: the latent has too few units for the patch degree of the layout; on all ranks.
    """
    units = largest_degree(height, width, unit=unit)
    if not guided and mesh.replica.size <= units:
        return mesh.replica
    if mesh.patch.size > units:
        raise TooManyRanks(ranks=mesh.patch.size, units=units, unit_rows=unit, rows=max(height, width))
    return mesh.patch


def denoise(
    unet: SplitUNet,
    mesh: Mesh,
    steps: Steps,
    latent_1CHW: Tensor,
    *,
    negative: Conditions | None,
    positive: Conditions,
    guidance: Guidance,
    synchronous: int | None,
    control: Callable[[], Control],
) -> Sampled:
    """Denoise one image. All ranks of the replica call it together; blocks.

    Args:
        unet: split.
        mesh: whose replica shares the image.
        steps: the image's walk, with equal state on all ranks.
        latent_1CHW: the whole latent to begin with, float32, equal on all ranks.
        negative: conditions of the negative half; needed when guidance is on.
        positive: conditions of the prompt.
        guidance: how the halves go together.
        synchronous: how many evaluations are synchronous before the displaced ones begin; None means all.
        control: asked on the leader only, before every evaluation; what it says holds for the replica.

    Communication: one word from the leader and one gather of the noise prediction per evaluation; the UNet's own.

    Raises:
        Stopped: the leader said STOP; on all ranks.
        LeaderFailed: the leader's control raised; on the other ranks.
        TooManyRanks: on all ranks, before any communication.
    """
    height, width = latent_1CHW.shape[2:]
    axis = sharing_axis(mesh, guided=guidance.on, height=height, width=width, unit=unet.unit)
    own = _own_conditions(mesh, guidance, negative, positive)
    patches = unet.begin(own, axis, height, width)
    count = {Phase.SYNCHRONOUS: 0, Phase.DISPLACED: 0}
    timesteps = steps.timesteps
    try:
        for index, timestep in enumerate(timesteps):
            obey(mesh, control, index)
            evaluation = phase_of(index, len(timesteps), synchronous if axis.size > 1 else None)
            count[evaluation.phase] += 1
            scaled = steps.scaled(latent_1CHW, timestep).to(unet.unet.dtype)
            patch_BCHW = unet(scaled.expand(own.text.shape[0], -1, -1, -1), timestep, evaluation)
            prediction = _prediction(mesh, axis, patches, patch_BCHW.float(), guidance)
            latent_1CHW = steps.step(prediction, timestep, latent_1CHW).float()
    except (Stopped, LeaderFailed):
        unet.end()
        raise
    unet.end()
    return Sampled(latent_1CHW, count[Phase.SYNCHRONOUS], count[Phase.DISPLACED])


def phase_of(index: int, total: int, synchronous: int | None) -> Evaluation:
    """Phase of evaluation `index` of `total` when the first `synchronous` ones wait (None: all of them).

    The first evaluation always waits, since nothing stale exists before it.
    """

    def displaced(at: int) -> bool:
        return synchronous is not None and at >= max(1, synchronous)

    phase = Phase.DISPLACED if displaced(index) else Phase.SYNCHRONOUS
    return Evaluation(phase, publish=index + 1 < total and displaced(index + 1))


def obey(mesh: Mesh, control: Callable[[], Control], evaluation: int) -> None:
    """Ask the leader and do as it says, on all ranks of the replica; one word is broadcast.

    Raises:
        Stopped: it said STOP.
        LeaderFailed: its callable raised, which on the leader itself goes through as it is.
    """
    if not mesh.is_leader:
        word = mesh.broadcast_word(0)
        if word == _FAILED:
            raise LeaderFailed(f"the leader failed before evaluation {evaluation}")
    else:
        try:
            word = int(control())
        except BaseException:
            mesh.broadcast_word(_FAILED)
            raise
        mesh.broadcast_word(word)
    if Control(word) is Control.STOP:
        raise Stopped(evaluation)


def _own_conditions(mesh: Mesh, guidance: Guidance, negative: Conditions | None, positive: Conditions) -> Conditions:
    """Those that this rank evaluates: the prompt's, both as a batch, or its half's."""
    if not guidance.on:
        return positive
    if negative is None:
        raise AssertionError("guidance needs the negative half")
    if mesh.layout.cfg == 2:
        return (negative, positive)[mesh.cfg_index]
    return Conditions(
        torch.cat([negative.text, positive.text]),
        torch.cat([negative.pooled, positive.pooled]),
        torch.cat([negative.time_ids, positive.time_ids]),
    )


def _prediction(mesh: Mesh, axis: Axis, patches: Patches, own_BCHW: Tensor, guidance: Guidance) -> Tensor:
    """The whole image's guided noise prediction on every rank, from every rank's patch of its half; blocks."""
    apart = guidance.on and mesh.layout.cfg == 2
    gathered = mesh.replica if apart else axis
    batch, channels = own_BCHW.shape[:2]
    shapes = [(batch, channels, *patches.size(place % patches.count)) for place in range(gathered.size)]
    parts = wire.gather(gathered, own_BCHW, shapes) if gathered.size > 1 else [own_BCHW]
    halves = [
        torch.cat(parts[start : start + patches.count], dim=patches.dim)
        for start in range(0, len(parts), patches.count)
    ]
    if not guidance.on:
        return halves[0]
    negative, positive = halves if apart else halves[0].chunk(2)
    return guidance.combined(negative, positive)
