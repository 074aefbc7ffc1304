"""No rank does more than its share, counted on the meta device, where a rank runs without its peers."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distri import wire
from distri.mesh import Axis, Traffic
from distri.patches import split
from distri.phase import EXACT
from distri.unet import Conditions, SplitUNet
from tests.distri import networks


def _operations(unet: Any, height: int, width: int, count: int, index: int) -> int:
    """Of an evaluation after the first, which also computes keys and values of the text."""
    axis = Axis("patch", tuple(range(count)), index, None, Traffic())
    shapes = ((1, networks.TEXT_TOKENS, networks.TEXT_WIDTH), (1, networks.POOLED_WIDTH), (1, 6))
    told = Conditions(*(torch.empty(shape, device="meta") for shape in shapes))
    latent = torch.empty((1, 4, height, width), device="meta")
    owner = SplitUNet(unet)
    with torch.inference_mode(), mock.patch.object(wire, "post", return_value=[]):
        owner.begin(told, axis, height, width)
        owner(latent, torch.tensor(1.0, device="meta"), EXACT)
        with FlopCounterMode(display=False) as counter:
            owner(latent, torch.tensor(1.0, device="meta"), EXACT)
    owner.remove()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("height", "width", "count"), [(64, 64, 2), (64, 64, 8), (96, 60, 3), (60, 100, 5), (240, 135, 4)]
)
def test_each_rank_does_at_most_a_twentieth_more_than_its_share(height: int, width: int, count: int) -> None:
    unet = networks.unet(torch.float32).to("meta")
    whole = _operations(unet, height, width, 1, 0)
    for index in range(count):
        assert _operations(unet, height, width, count, index) <= 1.05 * whole / count


def test_whole_units_are_what_keeps_a_rank_above_its_share() -> None:
    """33 units on 8 ranks: one has 5, which is 1.21 times the mean, and no rank does more than that."""
    unet = networks.unet(torch.float32).to("meta")
    patches = split(130, 130, 8, unit=4).at(2)
    whole = _operations(unet, 130, 130, 1, 0)
    busiest = max(_operations(unet, 130, 130, 8, index) for index in (0, 7))
    assert busiest * 8 / whole <= max(map(patches.rows, range(8))) * 8 / 33
