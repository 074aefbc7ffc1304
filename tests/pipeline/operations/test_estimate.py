"""Work of a picture, learned and assumed speed, and the estimate that follows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.deployment.control_cost import MEGA
from pipeline.deployment.cost import tera_operations
from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layouts import Layout
from pipeline.deployment.settings import Settings
from pipeline.deployment.speed import UNKNOWN_IMAGES, Speed, SpeedKey, expected_speed, paces, patch_speedup, size_class
from pipeline.input_picture import InputPicture
from pipeline.ledger import Ledger
from pipeline.operations.estimate import ASSUMED_IDLE_S, Estimator
from pipeline.picture import Enlargement, File, Format, Highres, HighresMode, LaterPasses, Scheduler, Syntax
from pipeline.promptset.fields.row import ResolvedRow
from tests.factories import deployment, resolved_row

NATIVE_PX = 1024


def _row(side: int = 1024, **more: Any) -> ResolvedRow:
    return resolved_row(**({"width": side, "height": side, "steps": 50} | more))


def test_work_is_that_of_the_network_and_the_decoder() -> None:
    assert tera_operations(_row(), NATIVE_PX) == pytest.approx(100 * 6.709 + 10.47, rel=0.01)
    assert tera_operations(_row(3840), NATIVE_PX) == pytest.approx(100 * 232.4 + 248.2, rel=0.01)
    assert tera_operations(_row(guidance_scale=1.0), NATIVE_PX) == pytest.approx(50 * 6.709 + 10.47, rel=0.01)
    both = _row(guidance_scale=1.0, prompt="a cat AND a hill", syntax=Syntax.A1111)  # each, and the negative one
    assert tera_operations(both, NATIVE_PX) == pytest.approx(150 * 6.709 + 10.47, rel=0.01)
    interval = _row(guidance_interval=(0.2, 0.8))  # 30 of 50 steps are guided
    assert tera_operations(interval, NATIVE_PX) == pytest.approx(80 * 6.709 + 10.47, rel=0.01)
    heun = Scheduler(name="HeunDiscreteScheduler")
    assert tera_operations(_row(scheduler=heun), NATIVE_PX) == pytest.approx(200 * 6.709 + 10.47, rel=0.01)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_a_scheduler_that_asks_the_network_twice_costs_as_twice_the_steps(name: str) -> None:
    twice = tera_operations(_row(scheduler=Scheduler(name=name)), NATIVE_PX)
    assert twice == pytest.approx(tera_operations(_row(steps=100), NATIVE_PX))


def test_refining_costs_its_passes_and_less_than_the_direct_way() -> None:
    refine = Highres(mode=HighresMode.REFINE, strength=0.3)
    found = tera_operations(_row(2048, highres=refine), NATIVE_PX)
    passes = 100 * 6.709 + 10.47 + 26.11 + 30 * 35.85 + 48.48
    assert found == pytest.approx(passes, rel=0.01)
    assert found < tera_operations(_row(2048), NATIVE_PX)
    assert tera_operations(_row(512, highres=refine), NATIVE_PX) == tera_operations(_row(512), NATIVE_PX)


@pytest.mark.parametrize(("scale", "most"), [(None, 3500), (1.0, 2400)])
def test_4096_px_within_windows_cost_a_third_to_a_half_of_whole_attention(scale: float | None, most: float) -> None:
    def tera(**later: Any) -> float:
        refine = Highres(mode=HighresMode.REFINE, strength=0.3)
        row = _row(4096, steps=30, highres=refine, later_passes=LaterPasses(guidance_scale=scale, **later))
        return tera_operations(row, NATIVE_PX)

    assert tera(window_px=1024) <= most < tera()
    vae = tera(window_px=1024) - tera(window_px=1024, enlargement=Enlargement.LATENTS)
    assert vae == pytest.approx(26.1 + 48.5 + 10.5 + 210.1, rel=0.01), "what enlarging pixels takes"


def test_refining_begins_at_the_base_that_the_row_asks_for() -> None:
    """A smaller first pass costs less; the pass that follows is the same."""
    tera = [
        tera_operations(_row(1024, highres=Highres(mode=HighresMode.REFINE, base_px=base_px)), NATIVE_PX)
        for base_px in (512, 768, 1024)
    ]
    assert tera == sorted(tera)
    assert tera[0] < 0.6 * tera[2]


def test_later_passes_take_the_steps_that_the_row_names_for_them_and_at_least_one() -> None:
    def tera(steps: int, strength: float) -> float:
        highres = Highres(mode=HighresMode.REFINE, strength=strength, steps=steps)
        return tera_operations(_row(2048, highres=highres), NATIVE_PX)

    one_step = 2 * 35.85  # of both halves of guidance at 2048 px
    assert tera(20, 0.5) - tera(10, 0.5) == pytest.approx(5 * one_step, rel=0.01)
    assert tera(10, 0.01) == tera(10, 0.1), "a strength that leaves no step still takes one"


@pytest.mark.parametrize(
    ("interval", "guided"),
    [((0.0, 0.5), (25, 0)), ((0.7, 1.0), (15, 15)), ((0.8, 0.9), (5, 5)), ((0.0, 1.0), (50, 15))],
)
def test_guidance_is_counted_in_the_steps_that_a_pass_walks(
    interval: tuple[float, float], guided: tuple[int, int]
) -> None:
    """The second pass walks the last 15 of 50 steps; so does a picture that is begun with a strength of 0.3."""
    row = _row(2048, guidance_interval=interval, highres=Highres(mode=HighresMode.REFINE, strength=0.3))
    passes = (50 + guided[0]) * 6.709 + 10.47 + 26.11 + (15 + guided[1]) * 35.85 + 48.48
    assert tera_operations(row, NATIVE_PX) == pytest.approx(passes, rel=0.01)
    picture = InputPicture(sha256="0" * 64, width=1024, height=1024)
    begun = _row(guidance_interval=interval, image=picture, strength=0.3)
    assert tera_operations(begun, NATIVE_PX) == pytest.approx((15 + guided[1]) * 6.709 + 10.47 + 4.88, rel=0.01)


@pytest.mark.parametrize(("pinned", "learned"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (16, 8), (64, 8)])
def test_pinned_slots_are_estimated_as_they_were_learned(pinned: int, learned: int) -> None:
    """A second an image, however many slots that was learned of."""
    row = _row(256, steps=20)
    key = SpeedKey.of("demo", Layout(1, 1, 1), exact=False, device="GPU", pixels=256 * 256, together=learned)
    speeds = {key: Speed(images=640, tera=640 * tera_operations(row, NATIVE_PX), seconds=640.0)}
    estimator = Estimator(deployment(layout="1x1x1", gpus=1, slots=pinned), speeds)
    for _ in range(640):
        estimator.add(row)
    assert estimator.estimate(pods=1).render_s == pytest.approx(640, rel=0.001)


def test_on_a_cpu_more_slots_are_expected_to_take_as_long() -> None:
    row = _row(256, steps=20)
    key = SpeedKey.of("demo", Layout(1, 1, 1), exact=False, device="cpu", pixels=256 * 256)
    speeds = {key: Speed(images=640, tera=640 * tera_operations(row, NATIVE_PX), seconds=640.0)}
    found = {}
    for device in ("cpu", "auto"):
        estimator = Estimator(deployment(layout="1x1x1", gpus=1, device=device, slots=4), speeds)
        for _ in range(640):
            estimator.add(row)
        found[device] = estimator.estimate(pods=1).render_s
    assert found["cpu"] == pytest.approx(640, rel=0.001)
    assert found["auto"] < 320


@pytest.mark.parametrize(
    ("pixels", "ranks", "published"), [(1024, 8, 2.8), (2048, 8, 4.9), (3840, 8, 6.1), (2048, 4, 3.1)]
)
def test_the_assumed_speedup_is_the_published_one(pixels: int, ranks: int, published: float) -> None:
    assert patch_speedup(ranks, pixels * pixels / MEGA) == pytest.approx(published, rel=0.1)


def test_before_the_first_job_the_estimate_says_that_it_assumes() -> None:
    estimator = Estimator(deployment(layout="1x1x1", gpus=1), {})
    estimator.add(_row(num_images=100))
    found = estimator.estimate(pods=1)
    assert found.images == 100
    assert found.render_s == pytest.approx(100 * (5.02 + 10.47 / 134), rel=0.02)
    assert found.idle_s == found.jobs * ASSUMED_IDLE_S
    assert not found.learned
    assert "assumed" in found.basis[0]


def test_what_was_learned_is_used_for_its_own_size_and_carried_over_to_others() -> None:
    tera = tera_operations(_row(), NATIVE_PX)
    key = SpeedKey.of("demo", Layout(1, 2, 4), exact=False, device="H100", pixels=MEGA)
    speeds = {
        key: Speed(images=10, tera=10 * tera, seconds=10 * 2.0, pixels=10 * MEGA, bytes=10 * MEGA, pods=2, idle_s=60)
    }
    estimator = Estimator(deployment(layout="1x2x4", gpus=8), speeds)
    estimator.add(_row(num_images=60))
    found = estimator.estimate(pods=4)
    assert found.learned
    assert found.render_s == pytest.approx(60 * 2.0)
    assert found.bytes == 60 * MEGA
    assert found.jobs == 1
    assert found.idle_s == 30
    assert found.gpu_hours == pytest.approx((120 + 30) * 8 / 3600, abs=1e-4)
    same = expected_speed(speeds, model="demo", layout=Layout(1, 2, 4), exact=False, pixels=MEGA)
    larger = expected_speed(speeds, model="demo", layout=Layout(1, 2, 4), exact=False, pixels=4 * MEGA)
    assert "carried over" not in same.basis
    assert "carried over" in larger.basis
    assert larger.tera_a_second / same.tera_a_second == pytest.approx(patch_speedup(4, 4) / patch_speedup(4, 1))
    assert paces(speeds)["demo"] == pytest.approx(tera / 2.0 / (134 * 1.9 * patch_speedup(4, 1)))


def _basis(speeds: dict[SpeedKey, Speed], layout: str = "1x1x1") -> str:
    found = expected_speed(speeds, model="demo", layout=Layout.parse(layout), exact=False, pixels=MEGA)
    return found.basis


def _key(layout: str = "1x1x1", *, exact: bool = False, device: str = "A100") -> SpeedKey:
    return SpeedKey.of("demo", Layout.parse(layout), exact=exact, device=device, pixels=MEGA)


def test_of_two_speeds_that_are_as_near_the_one_of_more_images_counts() -> None:
    few, many = Speed(images=1, tera=10, seconds=9), Speed(images=50, tera=500, seconds=9)
    for speeds in ({_key(): few, _key(device="H100"): many}, {_key(device="H100"): many, _key(): few}):
        assert _basis(speeds) == "50 images on H100, layout 1x1x1"


def test_a_speed_of_the_same_layout_is_nearer_than_one_of_the_same_exactness() -> None:
    once = Speed(images=5, tera=10, seconds=1)
    assert "layout 1x1x1, carried over" in _basis({_key("1x1x2"): once, _key(exact=True): once})


def test_speeds_with_another_exchange_are_kept_apart_and_said() -> None:
    exchange = Exchange.RESIDUAL
    once = Speed(images=5, tera=10, seconds=1)
    speeds = {_key(): once, replace(_key(), exchange=exchange): replace(once, seconds=2.0)}
    asked: dict[str, Any] = {"model": "demo", "layout": Layout(1, 1, 1), "exact": False, "pixels": MEGA}
    displaced, other = (expected_speed(speeds, exchange=one, **asked) for one in (Exchange.DISPLACED, exchange))
    assert other.tera_a_second == pytest.approx(displaced.tera_a_second / 2)
    assert other.basis == f"5 images on A100, layout 1x1x1, {exchange.value} exchange"
    estimator = Estimator(deployment(layout="1x1x1", gpus=1, exchange=exchange), speeds)
    estimator.add(_row(num_images=1))
    assert f"{exchange.value} exchange" in estimator.estimate(pods=1).basis[0]
    assert f"{exchange.value} exchange" in expected_speed({}, exchange=exchange, **asked).basis


def test_jobs_that_took_no_time_teach_no_speed() -> None:
    assert _basis({_key(): Speed(pods=1, idle_s=9)}).startswith("assumed")


def test_jobs_are_whole_and_pods_no_more_than_jobs() -> None:
    estimator = Estimator(deployment(layout="1x1x1", gpus=1, images_per_job=10), {})
    estimator.add(_row(num_images=31))
    found = estimator.estimate(pods=100)
    assert (found.jobs, found.pods) == (4, 4)
    assert estimator.estimate(pods=3).wall_s == pytest.approx(2 * (found.render_s + found.idle_s) / 4, abs=0.2)


def test_until_a_job_has_ended_they_are_as_short_as_they_will_be_cut() -> None:
    estimator = Estimator(deployment(layout="1x1x1", gpus=1, images_per_job=1000), {})
    estimator.add(_row(256, steps=1, num_images=1000))
    assert estimator.estimate(pods=1).jobs == math.ceil(1000 / UNKNOWN_IMAGES)


def test_nothing_costs_nothing_and_formats_differ() -> None:
    estimator = Estimator(deployment(), {})
    assert estimator.estimate(pods=2).gpu_hours == 0
    sizes = {}
    for kind in Format:
        one = Estimator(deployment(), {})
        one.add(_row(file=File(format=kind)))
        sizes[kind] = one.estimate(pods=1).bytes
    assert sizes[Format.PNG] > sizes[Format.JPEG] > sizes[Format.WEBP] > 0


def test_the_ledger_adds_up_what_jobs_did(settings: Settings) -> None:
    ledger = Ledger(settings)
    key = SpeedKey("a|b", Layout(1, 1, 2), exact=True, device='an "odd" name', size=size_class(MEGA // 4))
    once = Speed(images=1, tera=2.5, seconds=0.5, pixels=64, bytes=100, pods=1, idle_s=1.5)
    for _ in range(3):
        ledger.speeds.learn({key: once})
    assert ledger.speeds.all() == {
        key: Speed(images=3, tera=7.5, seconds=1.5, pixels=192, bytes=300, pods=3, idle_s=4.5)
    }
    # The very name under which earlier versions have learned.
    assert ledger.store.redis.smembers(ledger.store.keys.speeds) == {r'["a|b", "1x1x2", true, "an \"odd\" name", -4]'}
    for other in (
        replace(key, slots=4),
        *(replace(key, exchange=one) for one in Exchange if one is not Exchange.DISPLACED),
        replace(key, slots=4, exchange=Exchange.RESIDUAL),
    ):
        ledger.speeds.learn({other: once})
        assert ledger.speeds.all()[other] == once


def test_for_throughput_replicas_are_expected() -> None:
    found = {}
    for goal in ("latency", "throughput"):
        estimator = Estimator(deployment(layout="1x2x4", gpus=8, goal=goal), {})
        estimator.add(_row(num_images=1000))
        found[goal] = estimator.estimate(pods=1).render_s
    assert found["throughput"] == pytest.approx(1000 * (5.02 + 10.47 / 134) / 8, rel=0.02)
    assert found["latency"] > 1.5 * found["throughput"]
