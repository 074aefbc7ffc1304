"""Delays double with each failure in a row, up to a cap, and lie apart where many wait for one thing."""

from __future__ import annotations

import pytest

from pipeline.process.backoff import CAP_S, LONGEST_S, backoff_s


def test_each_delay_is_twice_the_one_before_up_to_the_cap() -> None:
    assert [backoff_s(n, first_s=0.5, longest_s=3.0) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_cap_also_holds_for_the_first_delay_and_has_a_default() -> None:
    assert backoff_s(1, first_s=60.0) == LONGEST_S


@pytest.mark.parametrize("failures", [40, 1100, 10**9])
def test_what_failed_very_often_still_has_a_delay(failures: int) -> None:
    assert backoff_s(failures, first_s=0.2, longest_s=300.0) == 300.0


@pytest.mark.parametrize(("random", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter_takes_up_to_half_of_a_delay_and_the_cap_holds_before_it(random: float, share: float) -> None:
    for failures, delay_s in ((1, 2.0), (3, 8.0), (9, 10.0)):
        assert backoff_s(failures, first_s=2.0, random=lambda: random) == delay_s * share


@pytest.mark.parametrize("failures", [1, 30, 10_000])
def test_nobody_waits_longer_than_the_cap_whatever_is_asked_for(failures: int) -> None:
    assert backoff_s(failures, first_s=3600.0, longest_s=24 * 3600.0) == CAP_S
