"""Images a minute and what is left: over a window, and nothing before there is something to say."""

from __future__ import annotations

import pytest

from pipeline.client.rate import Throughput
from tests.factories import at


def _seen(*looks: tuple[float, int]) -> Throughput:
    throughput = Throughput()
    for seconds, done in looks:
        throughput.record(done, at(seconds))
    return throughput


@pytest.mark.parametrize(
    "looks",
    [
        (),
        ((0, 5),),
        ((0, 0), (9, 8)),  # too soon
        ((0, 0), (60, 2)),  # too few
        ((0, 50), (60, 50)),  # what was done before we looked says nothing of now
        ((0, 50), (60, 90), (61, 20)),  # opened again by a retry
    ],
)
def test_too_little_says_nothing(looks: tuple[tuple[float, int], ...]) -> None:
    throughput = _seen(*looks)
    assert throughput.images_a_minute is None
    assert throughput.left_s(100) is None


def test_the_rate_is_of_what_was_seen_and_the_rest_takes_as_long() -> None:
    throughput = _seen((0, 100), (30, 110))
    assert throughput.images_a_minute == pytest.approx(20)
    assert throughput.left_s(310) == pytest.approx(600)


def test_only_the_last_minutes_count() -> None:
    slow = [(10.0 * look, look) for look in range(60)]  # 6 a minute for 10 minutes
    fast = [(600.0 + look, 60 + look) for look in range(301)]  # then 60
    assert _seen(*slow, *fast).images_a_minute == pytest.approx(60)


def test_a_batch_that_stands_still_slows_down_to_nothing() -> None:
    looks = [(0.0, 0), (60.0, 60), *((60.0 + 10 * look, 60) for look in range(1, 40))]
    assert _seen(*looks).images_a_minute is None


def test_memory_holds_the_window_alone() -> None:
    throughput = _seen(*((float(second), second) for second in range(2000)))
    assert len(throughput._counts) < 310
