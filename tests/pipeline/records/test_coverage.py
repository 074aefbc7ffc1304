"""Every image has exactly one outcome, or it is known which has none."""

from __future__ import annotations

import pytest

from pipeline.records.coverage import Coverage


@pytest.mark.parametrize("images", [0, 1, 7, 8, 9, 1000])
def test_it_is_complete_when_each_image_has_been_added_once(images: int) -> None:
    coverage = Coverage(images)
    assert list(coverage.missing()) == list(range(images))
    assert all(coverage.add(index) for index in reversed(range(images)))
    assert (coverage.left, list(coverage.missing())) == (0, [])


@pytest.mark.parametrize("index", [-1, 10, 999, 2**40])
def test_an_image_that_is_none_of_the_batch_is_refused(index: int) -> None:
    coverage = Coverage(10)
    assert not coverage.add(index)
    assert (coverage.left, index in coverage) == (10, False)


def test_a_second_outcome_of_an_image_is_refused_and_hides_no_gap() -> None:
    coverage = Coverage(4)
    assert [coverage.add(index) for index in (0, 1, 1, 3)] == [True, True, False, True]
    assert (coverage.left, list(coverage.missing())) == (1, [2])
