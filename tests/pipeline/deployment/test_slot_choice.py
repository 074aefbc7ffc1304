"""How many images are evaluated together."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.deployment.control_cost import MEGA
from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layouts import Layout
from pipeline.deployment.slot_choice import SlotChoice, chosen_slots, fixed_slots, slots_to_try
from pipeline.deployment.speed import Speed, SpeedKey, slots_speedup

OF_JOB: dict[str, Any] = {
    "model": "sdxl",
    "layout": Layout(1, 1, 1),
    "exact": False,
    "images": 64,
    "exchange": Exchange.DISPLACED,
}


def _learned(**seconds_by_slots: float) -> dict[SpeedKey, Speed]:
    """Of images of a megapixel: seconds that each took by slots, as `s4=1.5`."""
    return {
        SpeedKey("sdxl", Layout(1, 1, 1), False, "GPU", 0, int(name[1:])): Speed(
            images=10, tera=1000, seconds=10 * each
        )
        for name, each in seconds_by_slots.items()
    }


@pytest.mark.parametrize(
    ("pinned", "goal", "fixed"),
    [(None, "latency", 1), (None, "throughput", None), (3, "latency", 3), (3, "throughput", 3)],
)
def test_a_pinned_number_outranks_the_goal_and_latency_has_one(
    pinned: int | None, goal: str, fixed: int | None
) -> None:
    assert fixed_slots(pinned, goal) == fixed


@pytest.mark.parametrize(
    ("pixels", "device", "images", "slots"),
    [
        (MEGA, "auto", 64, 4),
        (512 * 512, "cuda", 64, 8),
        (4 * MEGA, "auto", 64, 1),
        (MEGA, "auto", 2, 2),
        (512 * 512, "cpu", 64, 1),
    ],
)
def test_until_something_was_learned_small_pictures_share_a_gpu(
    pixels: int, device: str, images: int, slots: int
) -> None:
    assert chosen_slots(None, {}, pixels=pixels, device=device, **OF_JOB | {"images": images}).slots == slots
    assert chosen_slots(3, {}, pixels=pixels, device=device, **OF_JOB).slots == 3


def test_what_was_learned_decides() -> None:
    gains_nothing = _learned(s1=1.0, s2=0.99, s4=1.2, s8=1.3)
    assert chosen_slots(None, gains_nothing, pixels=MEGA, device="auto", **OF_JOB).slots == 1
    gains = _learned(s1=1.0, s2=0.8, s4=0.79, s8=0.6)
    assert chosen_slots(None, gains, pixels=MEGA, device="auto", **OF_JOB).slots == 8
    assert chosen_slots(None, gains, pixels=MEGA, device="cpu", **OF_JOB).slots == 8


def test_a_gain_is_not_carried_over_to_another_size_on_a_cpu() -> None:
    """Four of 256 px gain nothing; of 512 px only one at a time was rendered."""
    of_256 = [replace(key, size=-8) for key in _learned(s1=1.0, s2=1.0, s4=1.05)]
    speeds = dict(zip(of_256, _learned(s1=1.0, s2=1.0, s4=1.05).values(), strict=True))
    speeds |= {replace(key, size=-4): speed for key, speed in _learned(s1=1.0).items()}
    assert chosen_slots(None, speeds, pixels=512 * 512, device="cpu", **OF_JOB).slots == 1


@pytest.mark.parametrize("other", [{"size": -8}, {"layout": Layout(1, 1, 2)}, {"exact": True}])
def test_on_a_cpu_nothing_is_expected_of_what_was_learned_of_other_jobs(other: dict[str, Any]) -> None:
    speeds = {replace(key, **other): speed for key, speed in _learned(s1=1.5, s2=1.5, s4=1.0).items()}
    assert chosen_slots(None, speeds, pixels=MEGA, device="cpu", **OF_JOB).slots == 1


@pytest.mark.parametrize("exchange", Exchange)
def test_what_was_learned_of_another_exchange_decides_last(exchange: Exchange) -> None:
    other = next(one for one in Exchange if one != exchange)
    own = {replace(key, exchange=exchange): speed for key, speed in _learned(s1=1.0, s2=0.5, s4=0.5).items()}
    others = {replace(key, exchange=other): speed for key, speed in _learned(s1=0.1, s2=0.5, s4=0.5).items()}
    of_job = OF_JOB | {"exchange": exchange}
    assert chosen_slots(None, others | own, pixels=MEGA, device="auto", **of_job).slots == 2
    assert slots_to_try(SlotChoice(2, "the best"), _many(others | own), pixels=MEGA, **of_job).slots == 2
    assert slots_to_try(SlotChoice(2, "the best"), _many(others), pixels=MEGA, **of_job).slots == 2


def _many(speeds: dict[SpeedKey, Speed]) -> dict[SpeedKey, Speed]:
    return {key: replace(speed, images=64) for key, speed in speeds.items()}


def test_several_at_a_time_are_never_slower_than_expected_of_one() -> None:
    for megapixels in (0.0625, 0.25, 1, 4, 16):
        gains = [slots_speedup(slots, megapixels) for slots in (1, 2, 4, 8)]
        assert gains[0] == pytest.approx(1)
        assert gains == sorted(gains)


@pytest.mark.parametrize(
    ("images_by_slots", "tried"),
    [
        ({4: 10}, 4),  # it is not known itself
        ({4: 64}, 2),
        ({4: 64, 2: 30, 8: 10}, 8),
        ({4: 64, 2: 64}, 8),
        ({4: 64, 2: 64, 8: 64}, 4),
    ],
)
def test_some_jobs_try_the_number_that_least_is_known_of(images_by_slots: dict[int, int], tried: int) -> None:
    speeds = {
        SpeedKey("sdxl", Layout(1, 1, 1), False, "GPU", 0, slots): Speed(images=images, tera=1.0, seconds=1.0)
        for slots, images in images_by_slots.items()
    }
    found = slots_to_try(SlotChoice(4, "the best"), speeds, pixels=MEGA, **OF_JOB)
    assert found.slots == tried
    assert slots_to_try(SlotChoice(4, "the best"), speeds, pixels=MEGA, **OF_JOB | {"images": 4}).slots <= 4
