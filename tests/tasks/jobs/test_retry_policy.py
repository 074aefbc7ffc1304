"""What follows from the way an attempt ended."""

from __future__ import annotations

import pytest

from pipeline.records.attempt import AttemptOutcome, Code
from tasks.jobs.retry_policy import (
    BLAMES_AN_IMAGE,
    FIRST_DISRUPTION_DELAY_S,
    LONGEST_DELAY_S,
    POLICY,
    WANTS_MEMORY,
    Effect,
    GiveUp,
    Limits,
    Retry,
    Tally,
    decide,
)

# Written out a second time: every code is in one of three groups.
_SPENDS = {
    Code.SUCCEEDED,
    Code.ENGINE_ERROR,
    Code.OUT_OF_MEMORY,
    Code.OOM_KILLED,
    Code.DEADLINE,
    Code.STORAGE,
    Code.GPU_UNHEALTHY,
    Code.KILLED,
    Code.UNKNOWN,
}
_COSTS_NOTHING = {
    Code.PREEMPTED,
    Code.EVICTED,
    Code.NODE_LOST,
    Code.DELETED,
    Code.QUOTA,
    Code.UNSCHEDULABLE,
    Code.CLAIM_REFUSED,
    Code.TOO_OLD,
}
_HOPELESS = {Code.CONFIG_ERROR, Code.ADMISSION_DENIED, Code.IMAGE_PULL}

LIMITS = Limits(attempts=3, disruptions=4)


def _decided(code: Code, tally: Tally, *, isolated: bool = False, limits: Limits = LIMITS) -> Retry | GiveUp:
    return decide(AttemptOutcome(code, "why"), tally, limits, isolated=isolated, random=lambda: 0.5)


def test_every_code_is_in_one_group() -> None:
    assert {code for code, effect in POLICY.items() if effect is Effect.SPENDS} == _SPENDS
    assert {code for code, effect in POLICY.items() if effect is Effect.DISRUPTS} == _COSTS_NOTHING
    assert {code for code, effect in POLICY.items() if effect is Effect.HOPELESS} == _HOPELESS
    assert {code for code, effect in POLICY.items() if effect is Effect.WAITS} == {Code.PAUSED}
    assert set(POLICY) == set(Code)


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("spent", [0, 1, 2, 50])
def test_a_decision_follows_from_the_code_and_the_attempts_spent(code: Code, spent: int) -> None:
    decision = _decided(code, Tally(spent=spent))
    if code in _HOPELESS:
        assert decision == GiveUp(
            f"{code}: why; another attempt would end the same: correct the deployment, then `tessera retry`"
        )
    elif code is Code.PAUSED:
        assert decision == Retry(0.0, Tally(spent=spent))
    elif code in _COSTS_NOTHING:
        assert isinstance(decision, Retry)
        assert decision.tally == Tally(spent=spent, disrupted=1)
    elif spent >= 2:
        assert decision == GiveUp(f"{code}: why (attempt {spent + 1} of 3)")
    else:
        assert isinstance(decision, Retry)
        assert decision.tally == Tally(spent=spent + 1)


def test_a_code_of_a_newer_pod_spends_an_attempt() -> None:
    decision = _decided(Code("SOLAR_FLARE"), Tally())
    assert isinstance(decision, Retry)
    assert decision.tally == Tally(spent=1)


def test_less_memory_is_tried_after_either_kind_of_running_out_and_blamed_on_the_image() -> None:
    assert {Code.OUT_OF_MEMORY, Code.OOM_KILLED} == WANTS_MEMORY
    assert WANTS_MEMORY | {Code.ENGINE_ERROR, Code.DEADLINE, Code.KILLED, Code.UNKNOWN} == BLAMES_AN_IMAGE


def test_disruptions_in_a_row_come_to_an_end() -> None:
    assert isinstance(_decided(Code.PREEMPTED, Tally(disrupted=2)), Retry)
    last = _decided(Code.PREEMPTED, Tally(disrupted=3))
    assert last == GiveUp("PREEMPTED: why (disruption 4 of 4 without an image in between)")


def test_an_isolated_image_pays_for_both_of_its_attempts() -> None:
    decision = _decided(Code.KILLED, Tally(spent=1), isolated=True)
    assert isinstance(decision, Retry)
    assert decision.tally == Tally(spent=0, isolated=1)


def test_after_an_isolated_image_the_job_waits_as_after_any_other_end() -> None:
    tally = Tally(spent=1)
    isolated, counted = (_decided(Code.KILLED, tally, isolated=found) for found in (True, False))
    assert isinstance(isolated, Retry)
    assert isinstance(counted, Retry)
    assert isolated.delay_s == counted.delay_s


def test_when_image_after_image_is_guilty_none_of_them_is() -> None:
    assert isinstance(_decided(Code.KILLED, Tally(isolated=2)), Retry)
    assert _decided(Code.KILLED, Tally(isolated=3)) == GiveUp(
        "KILLED: why (also without the 3 images that the pod died of before)"
    )


@pytest.mark.parametrize(("random", "low"), [(0.0, 0.5), (0.999999, 1.0)])
@pytest.mark.parametrize(("code", "first_s"), [(Code.UNKNOWN, 2.0), (Code.EVICTED, FIRST_DISRUPTION_DELAY_S)])
def test_delays_double_up_to_a_cap_with_jitter_over_their_upper_half(
    code: Code, first_s: float, random: float, low: float
) -> None:
    delays = []
    limits = Limits(attempts=10**6, disruptions=10**6)
    for times in [*range(12), 5000]:
        decision = decide(AttemptOutcome(code, ""), Tally(times, times), limits, isolated=False, random=lambda: random)
        assert isinstance(decision, Retry)
        delays.append(decision.delay_s)
    expected = [low * min(LONGEST_DELAY_S, first_s * 2.0 ** min(times, 99)) for times in [*range(12), 5000]]
    assert delays == pytest.approx(expected, rel=1e-3)
