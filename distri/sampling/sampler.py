"""From noise to the final latent of one image: phases, guidance, and the scheduler's steps on the whole latent."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from distri.layers.unet import Conditions, SplitUNet, together
from distri.model.schedulers import BatchSteps
from distri.ranks import p2p
from distri.ranks.errors import LeaderFailed, Stopped, TooManyRanks
from distri.ranks.mesh import Axis, Mesh
from distri.ranks.patches import Patches, largest_degree, split
from distri.ranks.phase import Evaluation, Phase


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


@dataclass(frozen=True)
class Sharing:
    """Which ranks share one latent.

    Attributes:
        whole: all ranks that need the prediction of this rank's latent, some of which may have no part in it.
        count: how many of them do, the first ones.
    """

    whole: Axis
    count: int

    @property
    def axis(self) -> Axis | None:
        """The ranks that compute; None on one that does not."""
        return self.whole.first(self.count)


def sharing(mesh: Mesh, *, apart: bool, height: int, width: int, unit: int, idle_ranks: bool = False) -> Sharing:
    """The ranks that share one latent as patches.

    With guidance whose halves have ranks of their own these are the ranks of one half. Else all ranks of the replica
    become patches; if the latent has too few units for that and cfg is 2, both halves of the replica do the same work
    redundantly.

    Args:
        mesh: whose replica it is.
        apart: whether the halves of guidance have ranks of their own.
        height, width: of the latent.
        unit: latent rows that stay together.
        idle_ranks: whether ranks may be left without a part where the latent has too few units.

    Raises:
        TooManyRanks: the latent has too few units for the layout; on all ranks.
    """
    units = largest_degree(height, width, unit=unit)
    whole = mesh.patch if apart else mesh.replica
    if whole.size > units and mesh.patch.size <= units:
        whole = mesh.patch
    if whole.size > units and not idle_ranks:
        raise TooManyRanks(ranks=mesh.patch.size, units=units, unit_rows=unit, rows=max(height, width))
    return Sharing(whole, min(whole.size, units))


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
    idle_ranks: bool = False,
    lean: bool = False,
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
        idle_ranks: whether ranks may be left without a part where the latent has too few units for all.
        lean: whether to use little memory: all ranks of the replica are patches, the halves of guidance are evaluated
            one after the other, and nothing is kept for the next evaluation.

    Communication: one word from the leader and one gather of the noise prediction per evaluation; the UNet's own.

    Raises:
        Stopped: the leader said STOP; on all ranks.
        LeaderFailed: the leader's control raised; on the other ranks.
        TooManyRanks: on all ranks, before any communication.
    """
    height, width = latent_BCHW.shape[2:]
    apart = guidance.on and mesh.layout.cfg == 2 and not lean
    ranks = sharing(mesh, apart=apart, height=height, width=width, unit=unet.unit, idle_ranks=idle_ranks)
    axis = ranks.axis
    patches = split(height, width, ranks.count, unit=unet.unit)
    turns = _turns(mesh, guidance, negative, positive, apart=apart, lean=lean)
    if axis is not None:
        unet.begin(turns[0], axis, height, width)
    warmup = schedule.warmup if ranks.count > 1 and not lean else None
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
            own_BCHW = latent_BCHW.new_empty(0)
            scaled = steps.scaled(latent_BCHW, timestep).to(unet.unet.dtype)  # by idle ranks too: schedulers count
            if axis is not None:
                halves = []
                for turn in turns:
                    if len(turns) > 1:
                        unet.begin(turn, axis, height, width)
                    copies = turn.text.shape[0] // latent_BCHW.shape[0]  # 2 where both halves are one batch
                    halves.append(unet(scaled.repeat(copies, 1, 1, 1), timestep, here).float())
                own_BCHW = torch.cat(halves)
            shape = (latent_BCHW.shape[0] * (2 if guidance.on and not apart else 1), latent_BCHW.shape[1])
            gathered = _gathered(mesh.replica if apart else ranks.whole, ranks.whole.size, patches, own_BCHW, shape)
            prediction = gathered if not guidance.on else guidance.combined(*gathered.chunk(2))
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


def _turns(
    mesh: Mesh, guidance: Guidance, negative: Conditions | None, positive: Conditions, *, apart: bool, lean: bool
) -> list[Conditions]:
    """What this rank evaluates, one batch after the other: the prompts, its half, both halves as one or in turn."""
    if not guidance.on:
        return [positive]
    if negative is None:
        raise AssertionError("guidance needs the negative half")
    if apart:
        return [(negative, positive)[mesh.cfg_index]]
    return [negative, positive] if lean else [together([negative, positive])]


def _gathered(axis: Axis, half: int, patches: Patches, own_BCHW: Tensor, shape: tuple[int, int]) -> Tensor:
    """Whole noise predictions on every rank of the axis, the negative half before the positive one; blocks.

    Args:
        axis: the ranks that need it: those of one latent, or of both halves one after the other.
        half: how many ranks one latent has; the first `patches.count` of them hold a patch.
        patches: how the latent is split.
        own_BCHW: this rank's patch; empty if it has none.
        shape: batch that a rank evaluates, and channels.
    """
    parts = [own_BCHW]
    if axis.size > 1:
        places = [place % half for place in range(axis.size)]
        shapes = [(*shape, *patches.size(place)) if place < patches.count else (0,) for place in places]
        parts = p2p.gather(axis, own_BCHW, shapes)
    return torch.cat(
        [
            torch.cat(parts[start : start + patches.count], dim=patches.dim)
            for start in range(0, len(parts), half if axis.size > 1 else 1)
        ]
    )
