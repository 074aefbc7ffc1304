"""Which ranks of a replica share one latent, and how each comes to the whole noise prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.ranks import p2p
from distri.ranks.errors import TooManyRanks
from distri.ranks.mesh import Axis, Mesh
from distri.ranks.patches import Patches, largest_degree


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


def halves_apart(mesh: Mesh, *, guided: bool, low_memory: bool) -> bool:
    """Whether each half of guidance is evaluated by ranks of its own."""
    return guided and mesh.layout.cfg == 2 and not low_memory


def sharing_of(mesh: Mesh, *, apart: bool, height: int, width: int, unit: int, idle_ranks: bool = False) -> Sharing:
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


def gather_prediction(
    axis: Axis, half: int, patches: Patches, own_BCHW: Tensor, rows: Sequence[int], *, channels: int
) -> Tensor:
    """Whole noise predictions on every rank of the axis, the negative half before the positive one; blocks.

    Args:
        axis: the ranks that need it: those of one latent, or of both halves one after the other.
        half: how many ranks one latent has; the first `patches.count` of them hold a patch.
        patches: how the latent is split.
        own_BCHW: this rank's patch; empty if it has none.
        rows: how many predictions the ranks of each half have; of one number where all have the same ones.
        channels: of a latent.
    """
    parts = [own_BCHW]
    if axis.size > 1:
        shapes = [
            (rows[place // half], channels, *patches.size(place % half)) if place % half < patches.count else (0,)
            for place in range(axis.size)
        ]
        parts = p2p.gather(axis, own_BCHW, shapes)
    return torch.cat(
        [
            torch.cat(parts[start : start + patches.count], dim=patches.dim)
            for start in range(0, len(parts), half if axis.size > 1 else 1)
        ]
    )
