"""Each kernel, in Triton's interpreter, against the plain layers in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distri.layers import norm
from distri.layers.kernels.gating import gated
from distri.layers.kernels.merging import image_moments
from distri.layers.kernels.moments import group_moments
from distri.layers.kernels.scaling import scaled
from distri.layers.kernels.summing import summed
from tests.distri.networks import relative, seeded

# The interpreter cuts a bfloat16 off where a GPU rounds it.
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7, torch.float32: 1e-6}

# Shape and groups: odd sides, one pixel, one channel a group, one group, tokens instead of rows, several tiles.
SHAPES = [
    ((2, 12, 7, 5), 4),
    ((1, 8, 1, 1), 8),
    ((3, 6, 33, 17), 1),
    ((2, 10, 37), 5),
    ((1, 80, 9, 11), 2),
    ((1, 4, 50, 61), 2),
]

FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "rows of a larger image": lambda x: torch.cat([x, x, x], 2).narrow(2, x.shape[2], x.shape[2]),
    "columns of a larger image": lambda x: torch.cat([x, x, x], -1).narrow(-1, x.shape[-1], x.shape[-1]),
    "of a larger batch": lambda x: torch.stack([x, x], 1)[:, 1],
}


def activation(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.5) -> Tensor:
    return (mean + seeded(3, *shape)).to(dtype)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_moments_are_those_of_the_plain_layer(shape: tuple[int, ...], groups: int, layout: str) -> None:
    for dtype in ROUNDING:
        x = FORMATS[layout](activation(shape, dtype))
        wanted = norm.moments(x.double(), groups)
        found = group_moments(x, groups)
        assert found.dtype == torch.float32
        assert relative(found[0].double(), wanted[0]) < 1e-6
        if wanted[1].abs().max() > 0:
            assert relative(found[1].double(), wanted[1]) < 1e-6


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_mean_of_a_thousand_deviations_keeps_the_variance(layout: str) -> None:
    x = FORMATS[layout](activation((1, 4, 130, 70), torch.float32, mean=1000.0))
    wanted = norm.moments(x.double(), 2)
    assert relative(group_moments(x, 2)[1].double(), wanted[1]) < 1e-4


def test_moments_of_a_constant_are_that_and_nothing() -> None:
    x = torch.full((1, 4, 50, 60), 3.1, dtype=torch.float16)
    assert torch.equal(group_moments(x, 2)[1], torch.zeros(1, 2))


def test_moments_are_the_same_in_every_run() -> None:
    x = activation((2, 12, 70, 50), torch.float16)
    assert torch.equal(group_moments(x, 4), group_moments(x, 4))


def test_what_is_added_to_a_channel_counts() -> None:
    x, added = activation((2, 12, 9, 5), torch.float16), activation((2, 12), torch.float16, mean=3.0)
    wanted = norm.moments(x.double() + added.double()[:, :, None, None], 3)
    assert relative(group_moments(x, 3, added).double(), wanted) < 1e-6


@pytest.mark.parametrize("ranks", range(1, 9))
def test_merged_moments_are_those_of_the_plain_layer(ranks: int) -> None:
    parts, pixels = patch_moments(ranks)
    for index in range(ranks):
        found = image_moments(parts, pixels, index)
        wanted = norm.merged_moments([part.double() for part in parts], pixels)
        assert relative(found.double(), wanted) < 1e-6


@pytest.mark.parametrize("ranks", range(2, 9))
def test_corrected_moments_are_those_of_the_plain_layer_group_by_group(ranks: int) -> None:
    """Some groups of the stale moments have so large a variance that only the fallback is left."""
    parts, pixels = patch_moments(ranks)
    for index in range(ranks):
        own_stale = parts[index] + 0.1 * seeded(50 + index, *parts[index].shape).float()
        own_stale[1] = own_stale[1].abs() + torch.tensor([0.0, 100.0] * 35)
        doubles = [part.double() for part in parts]
        fresh = norm.merged_moments(doubles, pixels)
        doubles[index] = own_stale.double()
        stale = norm.merged_moments(doubles, pixels)
        wanted = norm.corrected_moments(stale, own_stale.double(), parts[index].double(), fallback_2BG=fresh)
        found = image_moments(parts, pixels, index, own_stale)
        assert relative(found.double(), wanted) < 1e-6
        assert not torch.equal(found[1], fresh[1].float())


def test_merging_does_not_cancel_where_the_mean_is_large() -> None:
    parts, pixels = patch_moments(4, mean=10_000.0)
    wanted = norm.merged_moments([part.double() for part in parts], pixels)
    assert relative(image_moments(parts, pixels, 2)[1].double(), wanted[1]) < 1e-4


def patch_moments(ranks: int, mean: float = 1.0) -> tuple[list[Tensor], list[int]]:
    """Moments of uneven patches for two images of seventy groups."""
    parts = [seeded(rank, 2, 2, 70).float() for rank in range(ranks)]
    for part in parts:
        part[0] += mean
        part[1] = part[1].abs() + 0.5
    return parts, [100 + 7 * rank for rank in range(ranks)]


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_scaled_is_the_plain_layer_within_rounding(
    shape: tuple[int, ...], groups: int, layout: str, silu: bool
) -> None:
    for dtype, rounding in ROUNDING.items():
        x = FORMATS[layout](activation(shape, dtype))
        module = group_norm(groups, shape[1], dtype)
        moments = norm.moments(x.double(), groups)
        found = scaled(x, moments.float(), module.weight, module.bias, module.eps, silu=silu)
        wanted = norm.normalised(x.double(), moments, module.double())
        wanted = functional.silu(wanted) if silu else wanted
        assert found.dtype == dtype
        assert relative(found.double(), wanted) < rounding


def test_scaled_without_weights_only_normalises() -> None:
    x = activation((1, 8, 5, 3), torch.float32)
    found = scaled(x, group_moments(x, 2), None, None, 1e-5)
    assert relative(found, functional.group_norm(x, 2)) < 1e-5


def test_scaled_of_channels_last_is_channels_last() -> None:
    x = FORMATS["channels last"](activation((2, 8, 5, 3), torch.float16))
    found = scaled(x, group_moments(x, 2), None, None, 1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_what_is_added_to_a_channel_is_normalised_with_it() -> None:
    x, added = activation((2, 12, 9, 5), torch.float16), activation((2, 12), torch.float16, mean=3.0)
    module = group_norm(3, 12, torch.float16)
    found = scaled(x, group_moments(x, 3, added), module.weight, module.bias, module.eps, silu=True, added_BC=added)
    wanted = functional.silu(module.double()(x.double() + added.double()[:, :, None, None]))
    assert relative(found.double(), wanted) < ROUNDING[torch.float16]


def test_norms_of_the_kernels_are_within_a_rounding_of_the_plain_norm() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = activation((2, 64, 24, 20), dtype, mean=4.0)
        module = group_norm(8, 64, dtype)
        found = scaled(x, group_moments(x, 8), module.weight, module.bias, module.eps)
        assert relative(found.double(), module(x).double()) <= 2 * ROUNDING[dtype]


@pytest.mark.parametrize("shape", [(2, 7, 22), (1, 1, 2), (3, 5, 1030)])
def test_gated_is_the_plain_feed_forward_within_rounding(shape: tuple[int, ...]) -> None:
    for dtype, rounding in ROUNDING.items():
        x = activation(shape, dtype, mean=0.0)
        value, gate = x.double().chunk(2, dim=-1)
        assert relative(gated(x).double(), value * functional.gelu(gate)) < rounding


def group_norm(groups: int, channels: int, dtype: torch.dtype) -> nn.GroupNorm:
    module = nn.GroupNorm(groups, channels, eps=1e-6)
    with torch.no_grad():
        module.weight.copy_(seeded(1, channels) + 1)
        module.bias.copy_(seeded(2, channels))
    return module.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("other_layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("layout", FORMATS)
def test_sums_are_those_of_the_plain_layer(layout: str, other_layout: str) -> None:
    for number, (shape, _) in enumerate(SHAPES):
        for dtype, rounding in ROUNDING.items():
            x, other = FORMATS[layout](activation(shape, dtype)), FORMATS[other_layout](activation(shape, dtype, -2.0))
            biases = [activation((shape[1],), dtype, mean) for mean in (1.0, 7.0)[: 1 + number % 2]]
            added = torch.stack(biases).double().sum(0)
            wanted = x.double() + other.double() + added.view(-1, *(1,) * (len(shape) - 2))
            found = summed(x, other, *biases)
            assert found.dtype == dtype
            assert relative(found.double(), wanted) < 2 * rounding
            if layout == "channels last" and shape[1] > 1:
                assert found.stride(1) == 1
