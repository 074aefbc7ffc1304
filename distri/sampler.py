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
from distri.schedulers import BatchSteps
from distri.unet import Conditions, SplitUNet, together


class Control(IntEnum):
    """What the leader of a replica says before an evaluation."""

    GO = 0
    STOP = 1


# On the wire only: the leader's callable raised; the next evaluation waits.
_FAILED, _RESYNC = -1, 1 << 8


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
        latent: whole, BCHW, one per image, float32, equal on all ranks of the replica.
        synchronous, displaced: how many evaluations were which.
    """

    latent: Tensor
    synchronous: int
    displaced: int


def noise(generator: torch.Generator, channels: int, height: int, width: int) -> Tensor:
    """Unit noise for the whole latent, drawn on the CPU: it depends on neither ranks, batch nor device."""
    return torch.randn((1, channels, height, width), generator=generator, device="cpu", dtype=torch.float32)


@dataclass(frozen=True)
class Schedule:
    """Which evaluations wait for the other ranks.

    Attributes:
        warmup: how many do before displaced ones begin; None means all.
        resync: drift of the noise prediction above which one more waits; None means never. Drift is the norm of the
            change since the evaluation before, relative to the norm then. It is known when an evaluation has ended,
            while the one after has to know whether to send for its successor: so the resync comes one evaluation late.
    """

    warmup: int | None
    resync: float | None = None

    def resyncs(self, drift: float | None) -> bool:
        """Whether what drifted by so much calls for an evaluation that waits."""
        return self.resync is not None and drift is not None and not drift <= self.resync


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
    steps: BatchSteps,
    latent_BCHW: Tensor,
    *,
    negative: Conditions | None,
    positive: Conditions,
    guidance: Guidance,
    schedule: Schedule,
    control: Callable[[], Control],
) -> Sampled:
    """Denoise a batch of images of one size, often of one. All ranks of the replica call it together; blocks.

    Args:
        unet: split.
        mesh: whose replica shares the images.
        steps: the images' walk, with equal state on all ranks.
        latent_BCHW: the whole latents to begin with, float32, equal on all ranks.
        negative: conditions of the negative half, one row an image; needed when guidance is on.
        positive: conditions of the prompts, likewise.
        guidance: how the halves go together.
        schedule: which evaluations wait.
        control: asked on the leader only, before every evaluation; what it says holds for the replica.

    Communication: one word from the leader and one gather of the noise prediction per evaluation; the UNet's own.

    Raises:
        Stopped: the leader said STOP; on all ranks.
        LeaderFailed: the leader's control raised; on the other ranks.
        TooManyRanks: on all ranks, before any communication.
    """
    height, width = latent_BCHW.shape[2:]
    axis = sharing_axis(mesh, guided=guidance.on, height=height, width=width, unit=unet.unit)
    own = _own_conditions(mesh, guidance, negative, positive)
    copies = own.text.shape[0] // latent_BCHW.shape[0]  # 2 where both halves of guidance are one batch
    patches = unet.begin(own, axis, height, width)
    warmup = schedule.warmup if axis.size > 1 else None
    count = {Phase.SYNCHRONOUS: 0, Phase.DISPLACED: 0}
    timesteps = steps.timesteps
    resync_at, drift = -1, None
    before: Tensor | None = None
    try:
        for index, timestep in enumerate(timesteps):
            here = phase_of(index, len(timesteps), warmup, resync_at)
            if obey(mesh, control, index, resync=here.publish and schedule.resyncs(drift)):
                resync_at = index + 1
                here = Evaluation(here.phase, publish=False)
            count[here.phase] += 1
            scaled = steps.scaled(latent_BCHW, timestep).to(unet.unet.dtype)
            patch_BCHW = unet(scaled.repeat(copies, 1, 1, 1), timestep, here)
            prediction = _prediction(mesh, axis, patches, patch_BCHW.float(), guidance)
            if schedule.resync is not None:
                drift = None if before is None else float((prediction - before).norm() / before.norm())
                before = prediction
            latent_BCHW = steps.step(prediction, timestep, latent_BCHW).float()
    except (Stopped, LeaderFailed):
        unet.end()
        raise
    unet.end()
    return Sampled(latent_BCHW, count[Phase.SYNCHRONOUS], count[Phase.DISPLACED])


def phase_of(index: int, total: int, warmup: int | None, resync_at: int = -1) -> Evaluation:
    """Phase of evaluation `index` of `total` when the first `warmup` ones wait (None: all of them), and `resync_at`.

    The first evaluation always waits, since nothing stale exists before it.
    """

    def displaced(at: int) -> bool:
        return warmup is not None and at >= max(1, warmup) and at != resync_at

    phase = Phase.DISPLACED if displaced(index) else Phase.SYNCHRONOUS
    return Evaluation(phase, publish=index + 1 < total and displaced(index + 1))


def obey(mesh: Mesh, control: Callable[[], Control], evaluation: int, *, resync: bool = False) -> bool:
    """Ask the leader and do as it says, on all ranks of the replica; one word is broadcast.

    Args:
        mesh: whose replica it is.
        control: asked on the leader.
        evaluation: about to begin.
        resync: what this rank has found about the next evaluation; only the leader's finding counts.

    Returns:
        Whether the next evaluation is to be synchronous.

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
            word = int(control()) | (_RESYNC if resync else 0)
        except BaseException:
            mesh.broadcast_word(_FAILED)
            raise
        mesh.broadcast_word(word)
    if Control(word & ~_RESYNC) is Control.STOP:
        raise Stopped(evaluation)
    return bool(word & _RESYNC)


def _own_conditions(mesh: Mesh, guidance: Guidance, negative: Conditions | None, positive: Conditions) -> Conditions:
    """Those that this rank evaluates: the prompt's, both as a batch, or its half's."""
    if not guidance.on:
        return positive
    if negative is None:
        raise AssertionError("guidance needs the negative half")
    if mesh.layout.cfg == 2:
        return (negative, positive)[mesh.cfg_index]
    return together([negative, positive])


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
