"""What follows from the way an attempt ended: plain data, and one function over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.attempt import Code, Outcome

# The cluster's reasons, not the program's: they spend no attempt.
DISRUPTIONS = frozenset({Code.PREEMPTED, Code.EVICTED, Code.NODE_LOST, Code.DELETED, Code.QUOTA, Code.CLAIM_REFUSED})

# The deployment is wrong, and stays so until somebody changes it.
HOPELESS = frozenset({Code.CONFIG_ERROR, Code.ADMISSION_DENIED, Code.IMAGE_PULL})

FIRST_DELAY_S, LONGEST_DELAY_S = 2.0, 300.0
DISRUPTION_DELAY_S = 1.0


@dataclass(frozen=True)
class Retry:
    """Another attempt after `delay_s`; `spent` attempts count against the limit by then."""

    delay_s: float
    spent: int


@dataclass(frozen=True)
class GiveUp:
    """No other attempt."""

    reason: str


def decide(outcome: Outcome, *, spent: int, max_attempts: int, random: Callable[[], float]) -> Retry | GiveUp:
    """Whether images that an attempt left undone get another one.

    Args:
        outcome: how the attempt ended. SUCCEEDED with images undone counts as a failure: the word is not believed.
        spent: attempts that counted before this one.
        max_attempts: how many may count.
        random: uniform in [0, 1), for jitter: full jitter over the upper half of the delay.
    """
    if outcome.code in HOPELESS:
        return GiveUp(f"{outcome.code.value}: {outcome.reason}; no retry mends this")
    if outcome.code in DISRUPTIONS:
        return Retry(DISRUPTION_DELAY_S * (0.5 + 0.5 * random()), spent)
    if spent + 1 >= max_attempts:
        return GiveUp(f"{outcome.code.value}: {outcome.reason} (attempt {spent + 1} of {max_attempts})")
    delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**spent)
    return Retry(delay_s * (0.5 + 0.5 * random()), spent + 1)
