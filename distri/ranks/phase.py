"""How one evaluation of the network sees the other ranks; decided by the sampler, passed down to every layer."""

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """How an evaluation of the network sees the other ranks' activations."""

    SYNCHRONOUS = "synchronous"  # as they are now: layers wait for each other
    DISPLACED = "displaced"  # as they were in the evaluation before: nothing waits


class Exchanged(Enum):
    """How evaluations after the warm-up see the other ranks' activations."""

    DISPLACED = "displaced"  # as they were in the evaluation before
    RESIDUAL = "residual"  # as they are, keys and values in few bits
    DISPLACED_KV = "displaced-kv"  # keys and values as in the evaluation before, all else as it is


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
    """

    phase: Phase
    publish: bool


EXACT = Evaluation(Phase.SYNCHRONOUS, publish=False)
