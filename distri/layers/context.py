"""What every split layer reads and none of them changes: where the evaluation stands."""

from dataclasses import dataclass, field

from torch import Tensor

from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis, axis_of_one
from distri.ranks.patches import ROWS, Patches
from distri.ranks.phase import EXACT, Evaluation, NormMode, Phase


@dataclass
class Context:
    """Set by the network's owner before an evaluation, read by its layers.

    Attributes:
        axis: the ranks that share the image.
        patches: how its latent is split among them.
        exchange: the buffers for this shape on this axis.
        evaluation: phase of the current evaluation.
        norm_mode: GroupNorm in the displaced phase.
        text: keys and values of cross-attention by layer; emptied for every image.
    """

    axis: Axis
    patches: Patches
    exchange: Exchange
    evaluation: Evaluation = EXACT
    norm_mode: NormMode = NormMode.CORRECTED
    text: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def alone(cls, norm_mode: NormMode) -> "Context":
        """One rank that holds the whole image: what a network's layers read before the first `begin`."""
        return cls(axis_of_one(), Patches(1, 1, ROWS, (0, 1)), Exchange(axis_of_one()), norm_mode=norm_mode)

    @property
    def split(self) -> bool:
        """Whether there is anyone to share the image with."""
        return self.axis.size > 1

    @property
    def displaced(self) -> bool:
        return self.evaluation.phase is Phase.DISPLACED
