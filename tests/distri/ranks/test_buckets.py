"""How sites are divided into buckets, and the room for messages that are waited for at once."""

import pytest
import torch

from distri.ranks.buckets import ALIGNMENT_BYTES, SHARES, SHARES_OF_REST, Scratch, runs_of


@pytest.mark.parametrize(
    ("sizes", "shares", "wanted"),
    [
        ([1, 1, 1, 1], (0.5, 0.5), [2, 2]),
        ([1, 1, 1, 1], (0.75, 0.25), [3, 1]),
        ([8, 1, 1, 1], (0.25, 0.25, 0.25, 0.25), [1, 1, 2]),  # the first takes the share of the one after it
        ([1, 1, 1, 8], (0.25, 0.25, 0.25, 0.25), [3, 1]),
        ([1, 1], (0.25, 0.25, 0.25, 0.25), [1, 1]),
        ([0, 0, 0], (0.5, 0.5), [1, 2]),
        ([5], SHARES, [1]),
        ([], SHARES, []),
    ],
)
def test_runs_keep_the_order_and_about_the_shares(
    sizes: list[int], shares: tuple[float, ...], wanted: list[int]
) -> None:
    names = [str(place) for place in range(len(sizes))]
    runs = runs_of(names, sizes, shares)
    assert [len(run) for run in runs] == wanted
    assert [name for run in runs for name in run] == names


def test_the_shares_are_a_whole_and_end_small() -> None:
    for shares in (SHARES, SHARES_OF_REST):
        assert sum(shares) == pytest.approx(1)
        assert sorted(shares, reverse=True) == list(shares)
    assert SHARES[-1] <= 0.02


def test_scratch_keeps_its_place_and_its_tensors_lie_apart() -> None:
    scratch = Scratch()
    first = scratch.views([(3, 5), (2,)], torch.empty(0))
    first[0].fill_(1)
    first[1].fill_(2)
    assert first[0].sum() == 15
    assert first[1].data_ptr() - first[0].data_ptr() == ALIGNMENT_BYTES
    held = scratch.size_bytes
    again = scratch.views([(4,)], torch.empty(0, dtype=torch.float64))
    assert again[0].data_ptr() == first[0].data_ptr()
    assert again[0].dtype == torch.float64
    assert scratch.size_bytes == held == 2 * ALIGNMENT_BYTES
    larger = scratch.views([(100,)], torch.empty(0))
    assert larger[0].data_ptr() != first[0].data_ptr()
    assert first[0].sum() == 15
