"""Whether and when a job is tried again, from how its attempt ended: a table, and one function over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.process.backoff import CAP_S, backoff_s
from pipeline.records.attempt import DISRUPTIONS, AttemptOutcome, Code


class Effect(StrEnum):
    """What the end of an attempt costs its job."""

    SPENDS = "spends"  # the program failed: counts against max_attempts
    DISRUPTS = "disrupts"  # the cluster ended it, not the program: counts against max_disruptions
    WAITS = "waits"  # we asked it to stop: costs nothing, and the next may start at once
    HOPELESS = "hopeless"  # the deployment is wrong, and stays so until somebody changes it


_S, _D, _W, _H = Effect.SPENDS, Effect.DISRUPTS, Effect.WAITS, Effect.HOPELESS

POLICY: Mapping[Code, Effect] = {
    Code.SUCCEEDED: _S,  # with images undone: the report was wrong
    Code.ENGINE_ERROR: _S,
    Code.OUT_OF_MEMORY: _S,
    Code.OOM_KILLED: _S,
    Code.DEADLINE: _S,
    Code.STORAGE: _S,
    Code.GPU_UNHEALTHY: _S,
    Code.KILLED: _S,
    Code.UNKNOWN: _S,
    **dict.fromkeys(DISRUPTIONS, _D),
    Code.PAUSED: _W,
    Code.IMAGE_PULL: _H,
    Code.CONFIG_ERROR: _H,
    Code.ADMISSION_DENIED: _H,
}

# Ends that the image which was being rendered may have caused.
BLAMES_AN_IMAGE = frozenset(
    {Code.ENGINE_ERROR, Code.OUT_OF_MEMORY, Code.OOM_KILLED, Code.DEADLINE, Code.KILLED, Code.UNKNOWN}
)

# Of those, the ends after which the image is rendered once more in less memory.
WANTS_MEMORY = frozenset({Code.OUT_OF_MEMORY, Code.OOM_KILLED})

FIRST_DELAY_S, FIRST_DISRUPTION_DELAY_S, LONGEST_DELAY_S = 2.0, 1.0, CAP_S


@dataclass(frozen=True)
class Tally:
    """What has happened to a job since one of its attempts last gave an image an outcome."""

    spent: int = 0  # attempts that failed
    disrupted: int = 0  # attempts that the cluster took away
    isolated: int = 0  # images that were taken out because they killed their pods


@dataclass(frozen=True)
class Limits:
    """How often a job may fail in a row, and be disrupted in a row."""

    attempts: int
    disruptions: int


@dataclass(frozen=True)
class Retry:
    """Another attempt after `delay_s`."""

    delay_s: float
    tally: Tally


@dataclass(frozen=True)
class GiveUp:
    """No other attempt."""

    reason: str


def decide(
    outcome: AttemptOutcome, tally: Tally, limits: Limits, *, isolated: bool, random: Callable[[], float]
) -> Retry | GiveUp:
    """Whether images that an attempt left undone get another one.

    Args:
        outcome: how the attempt ended. SUCCEEDED with images undone counts as a failure.
        tally: what happened to the job before this end.
        limits: how often each may happen in a row.
        isolated: an image was found to have caused this end and an earlier one, and is not rendered again. So neither
            end counts against the job, unless image after image is isolated, for then none of them is the cause.
        random: uniform in [0, 1), for jitter: full jitter over the upper half of the delay.
    """
    end = f"{outcome.code.value}: {outcome.reason}"
    effect = POLICY.get(outcome.code, Effect.SPENDS)  # a newer pod's code, say
    if effect is Effect.HOPELESS:
        return GiveUp(f"{end}; another attempt would end the same: correct the deployment, then `tessera retry`")
    if effect is Effect.WAITS:
        return Retry(0.0, tally)
    if effect is Effect.DISRUPTS:
        after = replace(tally, disrupted=tally.disrupted + 1)
        if after.disrupted >= limits.disruptions:
            return GiveUp(f"{end} (disruption {after.disrupted} of {limits.disruptions} without an image in between)")
        return Retry(_delay_s(after.disrupted, FIRST_DISRUPTION_DELAY_S, random), after)
    if isolated:
        after = replace(tally, spent=max(0, tally.spent - 1), isolated=tally.isolated + 1)
        return Retry(_delay_s(tally.spent + 1, FIRST_DELAY_S, random), after)
    after = replace(tally, spent=tally.spent + 1)
    if tally.isolated >= limits.attempts:
        return GiveUp(f"{end} (also without the {tally.isolated} images that the pod died of before)")
    if after.spent >= limits.attempts:
        return GiveUp(f"{end} (attempt {after.spent} of {limits.attempts})")
    return Retry(_delay_s(tally.spent + 1, FIRST_DELAY_S, random), after)


def _delay_s(failures: int, first_s: float, random: Callable[[], float]) -> float:
    return backoff_s(failures, first_s=first_s, longest_s=LONGEST_DELAY_S, random=random)
