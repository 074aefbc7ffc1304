"""Several calls at a time, their results in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.process.parallel import in_order


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    def slow(number: int) -> int:
        time.sleep(0.02 * (number % 3 == 0))
        return number * number

    assert list(in_order(slow, range(20), at_a_time=4)) == [number * number for number in range(20)]
    assert list(in_order(slow, [], at_a_time=4)) == []


def test_no_more_items_are_taken_than_may_be_under_way() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), at_a_time=3)
    for number in range(10):
        assert next(results) == number
        assert len(taken) <= number + 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 14


def test_calls_are_made_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=300)
    list(in_order(lambda _: together.wait(), range(3), at_a_time=3))


def test_an_error_ends_it_and_what_has_not_begun_does_not_begin() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise ValueError("two")

    with pytest.raises(ValueError, match="two"):
        list(in_order(work, range(1000), at_a_time=2))
    assert len(begun) < 10
