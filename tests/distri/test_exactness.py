"""The engine equals plain diffusers in float32 within the published bounds; the benchmark measures every size."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.distri import exactness
from tests.distri.networks import relative
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
CASES = [(264, 248, 2), (232, 232, 1), (304, 208, 1)]
RENDERS = [(264, 248, 1), (208, 304, 2)]


@pytest.fixture(scope="module")
def wanted(model_dir: Path) -> list[list[exactness.Picture]]:
    return [exactness.wanted_pictures(model_dir, exactness.images(*case)) for case in RENDERS]


@pytest.mark.parametrize("count", [2, 5, 8])
def test_one_evaluation_equals_plain_diffusers_and_so_does_an_unchanged_displaced_one(
    ranks: GetRanks, count: int
) -> None:
    answers = ranks(count).run(exactness.found_evaluations, CASES)
    for place, (width, height, batch) in enumerate(CASES):
        plain = exactness.wanted_evaluation(width, height, batch)
        for kind in (0, 1):
            found = exactness.joined([answer[place][kind] for answer in answers], width, height)
            assert relative(found, plain) < exactness.ONE_EVALUATION


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (5, "1x1x5"), (8, "1x2x4")])
def test_six_guided_steps_and_decode_equal_plain_diffusers_image_by_image(
    ranks: GetRanks, model_dir: Path, wanted: list[list[exactness.Picture]], count: int, layout: str
) -> None:
    batches = [exactness.images(*case) for case in RENDERS]
    answers = ranks(count).run(exactness.found_pictures, model_dir, layout, batches)
    for place, (width, height, _) in enumerate(RENDERS):
        for number, picture in enumerate(wanted[place]):
            found = [answer[place][number] for answer in answers]
            assert exactness.picture_error(found, picture, width, height) < exactness.SIX_STEPS


def test_the_measure_sees_a_wrong_row(model_dir: Path, wanted: list[list[exactness.Picture]]) -> None:
    picture = wanted[0][0]
    decoded = picture.decoded.clone()
    decoded[..., 100, :] += 0.001
    wrong = replace(picture, decoded=decoded)
    assert exactness.picture_error([wrong], picture, 264, 248) > exactness.SIX_STEPS
    assert exactness.picture_error([picture], picture, 264, 248) == 0
