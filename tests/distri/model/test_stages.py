"""The passes of a picture, for every kind of size."""

import math
import random
from itertools import pairwise
from typing import Any

import pytest

from distri.model.passes.stages import LARGEST_STEP, Highres, RenderPlan, plan_stages, sub_seed
from pipeline.deployment import cost
from pipeline.picture import Highres as RowHighres
from pipeline.picture import HighresMode
from tests.factories import resolved_row

REFINE = Highres(refine=True)
SIZES = [
    (2048, 2048),
    (4096, 4096),
    (3840, 2160),
    (1080, 1920),
    (2047, 1025),
    (6000, 1000),
    (1500, 8191),
    (1024, 1032),
    (16_384, 6_104),
]


def _plan(width: int, height: int, highres: Highres = REFINE, seed: int = 7) -> RenderPlan:
    return plan_stages(width, height, steps=30, seed=seed, highres=highres, native_px=1024)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_refined_picture_begins_near_the_native_size_and_grows_by_about_two(width: int, height: int) -> None:
    plan = _plan(width, height)
    sizes = [(stage.width, stage.height) for stage in plan.stages]
    assert all(side % 8 == 0 for size in sizes for side in size)
    assert math.isclose(math.prod(sizes[0]), 1024**2, rel_tol=0.02)
    assert plan.canvas == sizes[-1] == (-(-width // 8) * 8, -(-height // 8) * 8)
    for (across, down), (next_across, next_down) in pairwise(sizes):
        assert 1 < math.sqrt(next_across * next_down / (across * down)) < LARGEST_STEP * 1.01
        assert math.isclose(across / down, width / height, rel_tol=0.03)


@pytest.mark.parametrize(
    ("size", "passes"), [(1024, 1), (1025, 2), (2048, 2), (2160, 2), (3072, 3), (4096, 3), (8192, 4), (10_000, 4)]
)
def test_4096_takes_two_passes_after_the_first(size: int, passes: int) -> None:
    assert len(_plan(size, size).stages) == passes


def test_every_pass_has_a_seed_of_its_own_and_the_first_that_of_the_image() -> None:
    seeds = [stage.seed for image in range(50) for stage in _plan(4096, 4096, seed=image).stages]
    assert _plan(4096, 4096, seed=9).stages[0].seed == 9
    assert len(set(seeds)) == len(seeds)
    assert sub_seed(9, 1) == _plan(4096, 4096, seed=9).stages[1].seed < 2**32


def test_steps_and_strength_are_those_of_the_row_and_the_first_pass_is_whole() -> None:
    first, second, third = _plan(4096, 4096, Highres(refine=True, strength=0.4, steps=50)).stages
    assert (first.steps, first.strength) == (30, 1.0)
    assert (second.steps, second.strength) == (third.steps, third.strength) == (50, 0.4)
    assert _plan(2048, 2048).stages[1].steps == 30


def test_the_first_pass_has_the_area_that_was_asked_for() -> None:
    first = _plan(2048, 2048, Highres(refine=True, base_px=768)).stages[0]
    assert (first.width, first.height) == (768, 768)


@pytest.mark.parametrize(("width", "crop"), [(1024, 0), (1023, 0), (1022, 1), (1017, 3)])
def test_what_is_no_multiple_of_eight_is_cut_from_the_middle_of_the_next_canvas(width: int, crop: int) -> None:
    plan = _plan(width, 512, Highres())
    assert plan.canvas == (1024, 512)
    assert plan.crop == (crop, 0)
    assert len(plan.stages) == 1


def test_only_a_direct_picture_above_the_native_area_brings_a_warning() -> None:
    assert "1032x1024" in _plan(1032, 1024, Highres()).warnings[0]
    assert _plan(1024, 1024, Highres()).warnings == ()
    assert _plan(2048, 512, Highres()).warnings == ()
    assert _plan(4096, 4096).warnings == ()


def test_the_cost_of_a_picture_counts_the_passes_that_the_engine_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides have the number and the formula, since the engine stands alone."""
    assert cost.LARGEST_STEP == LARGEST_STEP
    monkeypatch.setattr(cost, "_at", lambda coefficients, _: float(coefficients is cost.DECODE))  # one decode a pass
    monkeypatch.setattr(cost, "unet_tera", lambda *_: 0.0)
    refine: Any = RowHighres(mode=HighresMode.REFINE)
    generator = random.Random(1)
    sizes = [*SIZES, *((8 * generator.randint(8, 1024), 8 * generator.randint(8, 1024)) for _ in range(1000))]
    for width, height in sizes:
        row = resolved_row(width=width, height=height, highres=refine)
        assert cost.tera_operations(row, 1024) == len(_plan(width, height).stages), (width, height)


def test_the_cost_counts_no_pass_more_where_each_enlarges_by_exactly_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 400 to 1849 pixels is twice 2.15, of which the logarithms of areas make a little more than two."""
    monkeypatch.setattr(cost, "_at", lambda coefficients, _: float(coefficients is cost.DECODE))  # one decode a pass
    monkeypatch.setattr(cost, "unet_tera", lambda *_: 0.0)
    row = resolved_row(width=1849, height=1849, highres=RowHighres(mode=HighresMode.REFINE, base_px=400))
    plan = _plan(1849, 1849, Highres(refine=True, base_px=400))
    assert cost.tera_operations(row, 1024) == len(plan.stages) == 3
