"""Every split of every size: complete, aligned, balanced, at every level."""

import math
import random
from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from distri.ranks.errors import TooManyRanks
from distri.ranks.patches import COLUMNS, ROWS, Move, Patches, TokenBalance, largest_degree, split


@pytest.mark.parametrize("unit", [1, 2, 4])
def test_all_splits_are_complete_aligned_and_balanced(unit: int) -> None:
    for rows in range(1, 140):
        for count in range(1, largest_degree(rows, 1, unit=unit) + 1):
            patches = split(rows, 1, count, unit=unit)
            sizes = [patches.rows(index) for index in range(count)]
            assert sum(sizes) == rows
            assert all(edge % unit == 0 for edge in patches.edges[:-1])
            assert all(size >= 1 for size in sizes)
            units = [-(-size // unit) for size in sizes]
            assert max(units) - min(units) <= 1
            assert units == sorted(units)


@pytest.mark.parametrize(("height", "width"), [(27, 41), (41, 27), (130, 130), (104, 152), (310, 438), (135, 240)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_levels_follow_stride_2_convolutions(height: int, width: int, count: int) -> None:
    patches = split(height, width, count, unit=4)
    for _ in range(2):
        halved = patches.at(1)
        conv = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)
        whole = conv(torch.zeros(1, 1, patches.height, patches.width))
        assert tuple(whole.shape[2:]) == (halved.height, halved.width)
        assert all(edge % 2 == 0 for edge in patches.edges[:-1])
        assert halved.edges[-1] == whole.shape[halved.dim]
        patches = halved


def test_the_longer_side_is_split_and_rows_when_equal() -> None:
    assert split(27, 41, 2, unit=4).dim == COLUMNS
    assert split(41, 27, 2, unit=4).dim == ROWS
    assert split(32, 32, 2, unit=4).dim == ROWS


def test_the_remainder_lies_in_the_last_patch() -> None:
    assert split(27, 20, 4, unit=4).edges == (0, 4, 12, 20, 27)
    assert split(33, 20, 2, unit=4).edges == (0, 16, 33)


def test_cuts_put_together_are_the_whole() -> None:
    whole = torch.arange(2 * 27 * 41).reshape(1, 2, 27, 41)
    patches = split(27, 41, 5, unit=4)
    parts = [patches.cut(whole, index) for index in range(5)]
    assert torch.equal(torch.cat(parts, patches.dim), whole)
    assert [tuple(part.shape[2:]) for part in parts] == [patches.size(index) for index in range(5)]
    assert sum(patches.area(index) for index in range(5)) == 27 * 41


def test_doublings_scale_the_edges() -> None:
    assert split(5, 3, 2, unit=1).at(-3) == Patches(40, 24, ROWS, (0, 16, 40))


@pytest.mark.parametrize("seed", range(100))
def test_as_many_tokens_are_handed_on_as_keep_all_ranks_near_the_mean(seed: int) -> None:
    generator = random.Random(seed)
    areas = tuple(generator.randint(30, 34 + seed) for _ in range(generator.randint(1, 12)))
    balance = TokenBalance(generator.choice([0.0, 0.1, 0.25, 0.4]), generator.choice([1.0, 1.04, 1.1, math.inf]))
    patches = Patches(sum(areas), 1, ROWS, tuple(accumulate(areas, initial=0)), balance)
    total, mean = sum(areas), sum(areas) / len(areas)
    assert patches.areas == areas
    assert sum(patches.tokens) == total
    if max(areas) <= balance.most_work * mean:
        assert (patches.tokens, patches.moves) == (areas, ())
        return
    share = balance.rows_share
    work = [share * own + (1 - share) * dealt for own, dealt in zip(areas, patches.tokens, strict=True)]
    assert max(work) <= balance.most_work * mean + 1
    held = list(areas)
    for move in patches.moves:
        assert move.tokens > 0
        held[move.origin] -= move.tokens
        held[move.destination] += move.tokens
    assert tuple(held) == patches.tokens
    assert not {move.origin for move in patches.moves} & {move.destination for move in patches.moves}
    assert len(patches.moves) < len(areas)


def test_a_rank_with_very_many_rows_keeps_a_token() -> None:
    patches = Patches(200, 1, ROWS, (0, 20, 40, 60, 200), TokenBalance(rows_share=0.9))
    assert patches.tokens == (67, 66, 66, 1)
    assert patches.moves == (Move(3, 0, 47), Move(3, 1, 46), Move(3, 2, 46))


def test_few_tokens_move_where_one_patch_is_larger() -> None:
    """1040 pixels on 8 ranks: 33 rows of 33 at the deepest level, the last patch has five of them."""
    whole = split(130, 130, 8, unit=4)
    areas = (*(132,) * 7, 165)
    assert whole.at(2).tokens == areas, "without balancing every rank computes its own"
    deepest = replace(whole, balance=TokenBalance(rows_share=0.24)).at(2)
    assert (deepest.areas, deepest.tokens) == (areas, (*(137,) * 3, *(136,) * 4, 134))


def test_more_ranks_than_units_name_what_would_fit() -> None:
    with pytest.raises(TooManyRanks, match="at most 2") as caught:
        split(8, 8, 3, unit=4)
    assert (caught.value.ranks, caught.value.units, caught.value.rows) == (3, 2, 8)
    assert largest_degree(8, 8, unit=4) == 2
    assert largest_degree(9, 1, unit=4) == 3
