"""The arithmetic of split GroupNorm, without ranks."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from distri.layers.norm import corrected_moments, merged_moments, moments, normalised
from tests.distri.networks import relative, seeded


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_mean_of_sixty_deviations_keeps_one_per_cent(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (60 + torch.randn(1, 8, 32, 24)).to(dtype)
    norm = nn.GroupNorm(2, 8)
    merged = merged_moments([moments(x[:, :, :12], 2), moments(x[:, :, 12:], 2)], [12, 20])
    wanted = nn.functional.group_norm(x.double(), 2)
    assert relative(normalised(x, merged, norm).double(), wanted) < 0.01


def test_merging_does_not_cancel_in_single_precision() -> None:
    x = 1000 + seeded(1, 2, 4, 30, 10)
    single = x.float()
    merged = merged_moments([moments(single[:, :, :7], 2), moments(single[:, :, 7:], 2)], [7, 23])
    wanted = moments(single.double(), 2)
    assert relative(merged[1].double(), wanted[1]) < 1e-4


@pytest.mark.parametrize("edges", [(0, 5, 30), (0, 1, 2, 30), (0, 10, 20, 30), (0, 8, 12, 26, 30)])
def test_merged_moments_are_those_of_the_whole_with_uneven_patches(edges: tuple[int, ...]) -> None:
    x = 3 + 2 * seeded(1, 2, 4, 30, 10)
    parts = [moments(x[:, :, start:end], 2) for start, end in pairwise(edges)]
    sizes = [end - start for start, end in pairwise(edges)]
    assert relative(merged_moments(parts, sizes), moments(x, 2)) < 1e-14


def test_the_variance_is_biased() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 4)
    assert moments(x, 1).flatten().tolist() == pytest.approx([3.0, 3.5])
    assert moments(torch.full((1, 1, 4), 3.0), 1).flatten().tolist() == [3.0, 0.0]


def test_a_common_drift_is_corrected_exactly() -> None:
    """When all patches move as one, the corrected moments are the fresh ones."""
    before = seeded(1, 1, 4, 20, 10)
    after = before + 0.3
    own_before, own_after = moments(before[:, :, :8], 2), moments(after[:, :, :8], 2)
    stale = moments(before, 2)
    corrected = corrected_moments(stale, own_before, own_after, fallback_2BG=torch.zeros_like(stale))
    assert relative(corrected, moments(after, 2)) < 1e-14


def test_without_drift_the_stale_moments_stay() -> None:
    before = seeded(1, 1, 4, 20, 10)
    own, stale = moments(before[:, :, :8], 2), moments(before, 2)
    assert torch.equal(corrected_moments(stale, own, own, fallback_2BG=torch.zeros_like(stale)), stale)


def test_a_negative_variance_falls_back_group_by_group() -> None:
    stale = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])
    own_stale = torch.tensor([[[0.0, 0.0]], [[5.0, 1.0]]])
    own = torch.tensor([[[0.5, 0.5]], [[0.1, 1.5]]])
    fallback = torch.full((2, 1, 2), 7.0)
    corrected = corrected_moments(stale, own_stale, own, fallback)
    assert corrected[:, 0, 0].tolist() == [7.0, 7.0]
    assert corrected[:, 0, 1].tolist() == [0.5, 1.5]


def test_a_corrected_variance_of_zero_falls_back_too() -> None:
    """Dividing by it would make any drift infinite."""
    stale, own_stale, own = (torch.tensor([[[0.0]], [[variance]]]) for variance in (1.0, 2.0, 1.0))
    assert corrected_moments(stale, own_stale, own, torch.full((2, 1, 1), 7.0)).flatten().tolist() == [7.0, 7.0]
