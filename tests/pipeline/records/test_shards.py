"""Cutting rows into jobs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from pipeline.picture import Lora
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.results import FailureCode, ImageFailure, failure_of, in_row_order
from pipeline.records.shards import (
    WINDOW_IMAGES,
    Bounds,
    ImageTask,
    cut,
    images_of,
    index_ranges,
    parsed_shard,
    shard_bytes,
)
from tests.factories import resolved_row


def _rows(counts: list[int], models: str = "") -> list[ResolvedRow]:
    rows, first = [], 0
    for index, count in enumerate(counts):
        model = models[index] if models else "demo"
        rows.append(resolved_row(index, first_image=first, num_images=count, model=model))
        first += count
    return rows


def _ids(counts: list[int], size: int, models: str = "") -> list[list[str]]:
    return [[f"{t.row.row}.{t.number}" for t in images_of(shard)] for shard in cut(_rows(counts, models), Bounds(size))]


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([], 3, []),
        ([1], 3, [["0.0"]]),
        ([1, 1, 1], 3, [["0.0", "1.0", "2.0"]]),
        ([1, 1, 1, 1], 3, [["0.0", "1.0", "2.0"], ["3.0"]]),
        ([7], 3, [["0.0", "0.1", "0.2"], ["0.3", "0.4", "0.5"], ["0.6"]]),
        ([2, 3], 3, [["0.0", "0.1", "1.0"], ["1.1", "1.2"]]),
        ([1, 1], 1, [["0.0"], ["1.0"]]),
    ],
)
def test_shards_are_consecutive_images_and_a_row_with_too_many_goes_over_several(
    counts: list[int], size: int, expected: list[list[str]]
) -> None:
    assert _ids(counts, size) == expected


def test_a_job_renders_one_model() -> None:
    assert _ids([1, 1, 1, 1], 3, "aabb") == [["0.0", "1.0"], ["2.0", "3.0"]]
    assert _ids([1, 1, 1], 3, "aba") == [["0.0", "2.0"], ["1.0"]]


@pytest.mark.parametrize("seed", range(20))
def test_every_image_is_in_one_shard_and_cutting_again_gives_the_same(seed: int) -> None:
    rng = random.Random(seed)
    rows = _rows([rng.randint(1, 9) for _ in range(30)], "".join(rng.choice("ab") for _ in range(30)))
    size = rng.randint(1, 12)
    shards = list(cut(iter(rows), Bounds(size)))
    tasks = [task for shard in shards for task in images_of(shard)]
    assert sorted(task.index for task in tasks) == list(range(sum(row.num_images for row in rows)))
    assert len({task.id for task in tasks}) == len(tasks)
    assert all(1 <= len(images_of(shard)) <= size for shard in shards)
    assert [shard_bytes(shard) for shard in cut(rows, Bounds(size))] == [shard_bytes(shard) for shard in shards]


@pytest.mark.parametrize("negative", [None, "", "blur"])
def test_a_shard_file_reads_back_as_it_was(negative: str | None) -> None:
    row = resolved_row(prompt='a "b"\n\u2028 ü', negative_prompt=negative, num_images=2, metadata={"k": None, "n": 1.5})
    [shard] = cut([row], Bounds(9))
    assert parsed_shard(shard_bytes(shard)) == shard
    assert parsed_shard(shard_bytes(shard))[0].row.negative_prompt == negative


def test_a_row_goes_into_its_shards_as_it_was_staged() -> None:
    row = resolved_row(num_images=3)
    staged = json.dumps(row.model_dump(mode="json")).encode()  # with blanks, which our own JSON has not
    asked = []

    def json_of(row: ResolvedRow) -> bytes:
        asked.append(row.row)
        return staged

    shards = list(cut([row], Bounds(2), json_of))
    assert [shard_bytes(shard) for shard in shards] == [
        b'{"row":' + staged + b',"start":0,"stop":2}\n',
        b'{"row":' + staged + b',"start":2,"stop":3}\n',
    ]
    assert asked == [0]
    assert [parsed_shard(shard_bytes(shard)) for shard in shards] == shards


def test_rows_of_one_lora_set_and_size_stand_together_in_the_order_of_their_first() -> None:
    film, grain = (Lora(name="film"),), (Lora(name="grain"),)
    traits: list[dict[str, Any]] = [{"width": 64}, {"width": 72}, {"loras": film}, {"loras": grain, "width": 72}]
    rows = [resolved_row(n, first_image=n, **traits[n % 4]) for n in range(12)]
    [shard] = cut(rows, Bounds(100))
    assert [line.row.row for line in shard] == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_rows_move_no_further_than_a_window_so_that_memory_holds_one_only() -> None:
    read = 0

    def rows() -> Iterator[ResolvedRow]:
        nonlocal read
        for n in range(3 * WINDOW_IMAGES):
            read = n + 1
            yield resolved_row(n, first_image=n, width=64 + 8 * (n % 3))

    shards = cut(rows(), Bounds(64))
    first = next(shards)
    assert read == WINDOW_IMAGES
    assert {line.row.width for line in first} == {64}
    seen = [line.row.row for line in first] + [line.row.row for shard in shards for line in shard]
    assert sorted(seen) == list(range(3 * WINDOW_IMAGES))
    assert all(abs(place - row) < WINDOW_IMAGES for place, row in enumerate(seen))


def test_a_window_counts_images_so_that_rows_of_many_do_not_swell_it() -> None:
    rows = [resolved_row(n, first_image=n * 1000, num_images=1000, width=64 + 8 * (n % 2)) for n in range(10)]
    assert [line.row.row for shard in cut(rows, Bounds(1000)) for line in shard] == [0, 2, 4, 1, 3, 5, 7, 9, 6, 8]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_outcomes_come_back_into_the_order_of_the_rows(size: int) -> None:
    rows = [resolved_row(n, first_image=2 * n, num_images=2, width=64 + 8 * (n * n % 5)) for n in range(100)]
    tasks = [task for shard in cut(rows, Bounds(size)) for task in images_of(shard)]
    outcomes = [failure_of(task, FailureCode.BLACK, "", retryable=True) for task in tasks]
    assert [outcome.index for outcome in outcomes] != list(range(200))
    assert [outcome.index for outcome in in_row_order(outcomes)] == list(range(200))
    assert [outcome.index for outcome in in_row_order(outcomes[50:])] == sorted(o.index for o in outcomes[50:])


def test_an_outcome_that_never_comes_holds_up_no_more_than_two_windows() -> None:
    """As when a fragment was deleted: the others would pile up in memory until the controller dies."""
    [first] = images_of(next(cut([resolved_row()], Bounds(1))))
    failure = failure_of(first, FailureCode.BLACK, "", retryable=True)
    taken = 0

    def outcomes() -> Iterator[ImageFailure]:
        nonlocal taken
        for index in range(1, 5 * WINDOW_IMAGES):
            if index != 3 * WINDOW_IMAGES:
                taken += 1
                yield failure.model_copy(update={"index": index})

    most, found = 0, []
    for outcome in in_row_order(outcomes()):
        found.append(outcome.index)
        most = max(most, taken - len(found))
    assert found == [index for index in range(1, 5 * WINDOW_IMAGES) if index != 3 * WINDOW_IMAGES]
    assert most <= 2 * WINDOW_IMAGES


def test_image_i_of_a_row_has_seed_plus_i() -> None:
    [shard] = cut([resolved_row(seed=100, num_images=3)], Bounds(9))
    assert [task.seed for task in images_of(shard)] == [100, 101, 102]


def test_a_job_is_no_longer_than_it_should_be_nor_empty() -> None:
    rows = [resolved_row(number, num_images=4, width=64 * (number + 1)) for number in range(6)]
    bounds = Bounds(100, 10.0, lambda row: row.width / 64)  # 1 to 6 seconds an image
    shards = list(cut(rows, bounds))
    for shard in shards:
        tasks = images_of(shard)
        assert sum(task.row.width / 64 for task in tasks) <= 10
        assert tasks
    assert len({(t.row.row, t.number) for shard in shards for t in images_of(shard)}) == 24
    # As few jobs as the order allows: one more image of the next row would not have fitted.
    for shard, after in pairwise(shards):
        assert sum(t.row.width / 64 for t in images_of(shard)) + images_of(after)[0].row.width / 64 > 10


def test_an_image_that_is_longer_than_a_job_is_a_job() -> None:
    shards = list(cut([resolved_row(0, num_images=3)], Bounds(100, 10.0, lambda _: 25.0)))
    assert [len(images_of(shard)) for shard in shards] == [1, 1, 1]


def test_rows_of_one_lora_set_stand_together_before_their_sizes_do() -> None:
    """Fusing LoRAs anew takes longer than other buffers do, so a set is never taken up twice."""
    film = (Lora(name="film"),)
    traits: list[dict[str, Any]] = [{"width": 64}, {"loras": film}, {"width": 72}, {"loras": film, "width": 72}]
    [shard] = cut([resolved_row(n, first_image=n, **traits[n]) for n in range(4)], Bounds(100))
    assert [line.row.row for line in shard] == [0, 2, 1, 3]


def test_rows_of_one_width_and_of_other_heights_are_of_other_sizes() -> None:
    rows = [resolved_row(n, first_image=n, height=64 + 8 * (n % 2)) for n in range(4)]
    [shard] = cut(rows, Bounds(100))
    assert [line.row.row for line in shard] == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("indices", "ranges"), [([], ""), ([3], "3"), ([2, 0, 1], "0-2"), ([0, 1, 5, 7, 8, 9], "0-1,5,7-9")]
)
def test_the_images_of_a_job_are_written_as_ranges(indices: list[int], ranges: str) -> None:
    assert index_ranges(ImageTask(resolved_row(index), 0) for index in indices) == ranges
