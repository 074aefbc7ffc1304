"""How one evaluation of the network sees the other ranks; decided by the sampler, passed down to every layer."""

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property


class Phase(Enum):
    """How an evaluation of the network sees the other ranks' activations."""

    SYNCHRONOUS = "synchronous"  # as they are now: layers wait for each other
    DISPLACED = "displaced"  # as they were in the evaluation before: nothing waits


class Exchanged(Enum):
    """How evaluations after the warm-up see the other ranks' activations."""

    DISPLACED = "displaced"  # as they were in the evaluation before
    RESIDUAL = "residual"  # as they are, keys and values in few bits


class NormMode(Enum):
    """Where GroupNorm's statistics come from in the displaced phase (DistriFusion, section 4.3 and table 4)."""

    SYNCHRONOUS = "synchronous"  # gathered fresh, blocking
    CORRECTED = "corrected"  # stale ones of the whole image, moved by this rank's own drift
    STALE = "stale"  # this rank's fresh, the others' stale
    LOCAL = "local"  # this rank's only


@dataclass(frozen=True)
class Evaluation:
    """What the sampler decides for one evaluation of the network.

    Attributes:
        phase: how the others' activations are seen.
        publish: whether the next evaluation is displaced, so that what it will read has to be sent.
        rest: the same of all but most keys and values, where that is not seen as they are: halos, moments, tokens
            handed on, and the keys and values of the transformer nearest the output.
        is_rest: whether this is that of the rest, whose sites never share a bucket with keys and values: another image
            may have it displaced later.
    """

    phase: Phase
    publish: bool
    rest: "Evaluation | None" = None
    is_rest: bool = False

    @cached_property
    def of_rest(self) -> "Evaluation":
        """How all but most keys and values is seen."""
        return replace(self if self.rest is None else self.rest, rest=None, is_rest=True)

    @property
    def name(self) -> str:
        """For logs and traces."""
        keys_alone = self.phase is Phase.DISPLACED and self.of_rest.phase is Phase.SYNCHRONOUS
        return "displaced keys and values" if keys_alone else self.phase.value

    def last(self) -> "Evaluation":
        """The same before one that is synchronous, for which nothing has to be sent."""
        return replace(self, publish=False, rest=None if self.rest is None else self.rest.last())


EXACT = Evaluation(Phase.SYNCHRONOUS, publish=False)
