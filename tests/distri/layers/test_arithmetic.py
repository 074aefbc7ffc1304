"""No rank does more than its share, counted on the meta device, where a rank runs without its peers."""

import functools
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine.networks import sdxl_unet
from distri.layers import arithmetic
from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet, patches_of
from distri.ranks import p2p
from distri.ranks.mesh import Axis, AxisName, TrafficCounter
from distri.ranks.patches import Patches
from distri.ranks.phase import EXACT
from tests.distri import networks


def operations(unet: Any, height: int, width: int, count: int, index: int, *, window: int | None = None) -> int:
    """Of an evaluation whose keys and values of the text are there."""
    axis = Axis(AxisName.PATCH, tuple(range(count)), index, None, TrafficCounter())
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    shapes = ((1, arithmetic.TEXT_TOKENS, unet.config.cross_attention_dim), (1, pooled), (1, 6))
    conditions = Conditions(*(torch.empty(shape, device="meta") for shape in shapes))
    latent = torch.empty((1, 4, height, width), device="meta")
    owner = SplitUNet(unet)
    with torch.inference_mode(), mock.patch.object(p2p, "post", return_value=[]):
        owner.begin(conditions, axis, height, width, window=window)
        owner._layers.read_text(conditions.text)
        with FlopCounterMode(display=False) as counter:
            owner(latent, torch.tensor(1.0, device="meta"), EXACT)
    owner.remove()
    return int(counter.get_total_flops())


@functools.cache
def _small() -> Any:
    return networks.unet(torch.float32).to("meta")


@functools.cache
def _sdxl() -> Any:
    return sdxl_unet()


@functools.cache
def _whole(unet: Callable[[], Any], height: int, width: int) -> int:
    return operations(unet(), height, width, 1, 0)


def _busiest(patches: Patches) -> Iterable[int]:
    """Of the ranks with as many neighbours, those that no other exceeds in rows or tokens with no less of the other."""
    ends, tokens = (0, patches.count - 1), patches.at(2).tokens
    work = {one: (patches.rows(one), tokens[one]) for one in range(patches.count)}
    unlike = {(*work[one], one in ends): one for one in work}
    for (rows, dealt, at_end), one in unlike.items():
        as_much = [(r, t) for r, t, e in unlike if e is at_end and r >= rows and t >= dealt]
        if as_much == [(rows, dealt)]:
            yield one


# Counts that divide the rows, that leave some over, and that share tokens.
SHARED = [
    *((64, 64, count) for count in (2, 3, 7, 8)),
    *((60, 100, count) for count in (3, 5)),
    *((104, 152, count) for count in (2, 5)),
    *((130, 130, count) for count in (3, 8)),
    *((132, 132, count) for count in (5, 7)),
    *((240, 135, count) for count in (2, 7)),
    *((45, 33, count) for count in (2, 3, 5, 8)),
]


@pytest.mark.parametrize(("height", "width", "count"), SHARED)
def test_each_rank_does_at_most_a_twentieth_more_than_its_share(height: int, width: int, count: int) -> None:
    """Also where whole rows do not divide: then tokens are dealt."""
    unet, whole = _small(), _whole(_small, height, width)
    for index in _busiest(patches_of(unet, height, width, count)):
        assert operations(unet, height, width, count, index) <= 1.05 * whole / count


@pytest.mark.parametrize(("height", "width", "count"), [(130, 130, 8), (64, 64, 11)])
def test_of_sdxl_as_well(height: int, width: int, count: int) -> None:
    unet, whole = _sdxl(), _whole(_sdxl, height, width)
    for index in _busiest(patches_of(unet, height, width, count)):
        assert operations(unet, height, width, count, index) <= 1.05 * whole / count
    of_shapes = arithmetic.of_unet(unet, height, width)
    assert 2 * (of_shapes.rows + of_shapes.tokens) == pytest.approx(whole, rel=1e-3)


def test_what_goes_with_rows_and_what_with_tokens_is_what_is_counted() -> None:
    unet = networks.unet(torch.float32).to("meta")
    total = operations(unet, 27, 41, 1, 0)
    of_shapes = arithmetic.of_unet(unet, 27, 41)
    assert 2 * (of_shapes.rows + of_shapes.tokens) == pytest.approx(total, rel=1e-3)
    with mock.patch.object(Transformer2DModel, "forward", lambda _, x, *__, **___: (x,)):
        rows_alone = operations(unet, 27, 41, 1, 0)
    assert 2 * of_shapes.rows == pytest.approx(rows_alone, rel=1e-2)
