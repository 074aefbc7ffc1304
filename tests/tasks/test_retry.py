"""What follows from the way an attempt ended."""

from __future__ import annotations

import pytest

from pipeline.attempt import Code, Outcome
from tasks.retry import DISRUPTION_DELAY_S, LONGEST_DELAY_S, GiveUp, Retry, decide

# Written out a second time: every code is in one of three groups.
_SPENDS = {
    Code.SUCCEEDED,
    Code.ENGINE_ERROR,
    Code.OOM_KILLED,
    Code.DEADLINE,
    Code.STORAGE,
    Code.GPU_UNHEALTHY,
    Code.KILLED,
    Code.UNKNOWN,
    Code.UNSCHEDULABLE,
}
_COSTS_NOTHING = {Code.PREEMPTED, Code.EVICTED, Code.NODE_LOST, Code.DELETED, Code.QUOTA, Code.CLAIM_REFUSED}
_HOPELESS = {Code.CONFIG_ERROR, Code.ADMISSION_DENIED, Code.IMAGE_PULL}


def test_every_code_is_in_one_group() -> None:
    assert set(Code) == _SPENDS | _COSTS_NOTHING | _HOPELESS
    assert len(_SPENDS) + len(_COSTS_NOTHING) + len(_HOPELESS) == len(Code)


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("spent", [0, 1, 2, 50])
def test_a_decision_follows_from_the_code_and_the_attempts_spent(code: Code, spent: int) -> None:
    decision = decide(Outcome(code, "why"), spent=spent, max_attempts=3, random=lambda: 0.5)
    if code in _HOPELESS:
        assert decision == GiveUp(f"{code}: why; no retry mends this")
    elif code in _COSTS_NOTHING:
        assert isinstance(decision, Retry)
        assert decision.spent == spent
    elif spent >= 2:
        assert decision == GiveUp(f"{code}: why (attempt {spent + 1} of 3)")
    else:
        assert isinstance(decision, Retry)
        assert decision.spent == spent + 1


@pytest.mark.parametrize(("random", "low"), [(0.0, 0.5), (0.999999, 1.0)])
def test_delays_double_up_to_a_cap_with_jitter_over_their_upper_half(random: float, low: float) -> None:
    delays = []
    for spent in range(12):
        decision = decide(Outcome(Code.UNKNOWN, ""), spent=spent, max_attempts=99, random=lambda: random)
        assert isinstance(decision, Retry)
        delays.append(decision.delay_s)
    assert delays == pytest.approx([low * min(LONGEST_DELAY_S, 2.0 * 2**spent) for spent in range(12)], rel=1e-3)


def test_a_disruption_is_tried_again_soon_however_often_it_comes() -> None:
    decision = decide(Outcome(Code.PREEMPTED, ""), spent=2, max_attempts=3, random=lambda: 0.999)
    assert isinstance(decision, Retry)
    assert decision.delay_s <= DISRUPTION_DELAY_S
