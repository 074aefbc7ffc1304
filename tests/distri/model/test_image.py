"""What an image says about its size and crop to the model, for both halves of guidance."""

from typing import Any

import pytest

from distri.model.image import ImageSpec

PASS_SIZE = (96, 128)


def _image(**conditioning: Any) -> ImageSpec:
    return ImageSpec("a harbour", None, 1, 64, 64, 2, 5.0, **conditioning)


def test_what_is_not_set_is_the_size_of_the_pass() -> None:
    assert _image().time_ids(PASS_SIZE) == _image().negative_time_ids(PASS_SIZE) == (96, 128, 0, 0, 96, 128)


def test_a_negative_half_of_which_nothing_is_set_gets_all_of_the_other() -> None:
    image = _image(original_size=(1, 2), crop=(3, 4), target_size=(5, 6))
    assert image.negative_time_ids(PASS_SIZE) == image.time_ids(PASS_SIZE) == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("negative", "wanted"),
    [
        ({"negative_crop": (0, 8)}, (1, 2, 0, 8, 5, 6)),
        ({"negative_original_size": (7, 9)}, (7, 9, 0, 0, 5, 6)),
        ({"negative_target_size": (7, 9)}, (1, 2, 0, 0, 7, 9)),
    ],
)
def test_a_negative_half_of_which_something_is_set_has_its_own_crop_and_the_other_s_sizes(
    negative: dict[str, tuple[int, int]], wanted: tuple[int, ...]
) -> None:
    image = _image(original_size=(1, 2), crop=(3, 4), target_size=(5, 6), **negative)
    assert image.negative_time_ids(PASS_SIZE) == wanted


def test_sizes_that_neither_half_sets_are_those_of_the_pass() -> None:
    assert _image(negative_crop=(0, 8)).negative_time_ids(PASS_SIZE) == (96, 128, 0, 8, 96, 128)
