"""The traffic formulas of the docs are what the wire counts and the exchange allocates."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.engine.networks import sdxl_unet
from distri.layers import traffic
from distri.layers.unet import Conditions, SplitUNet, patches_of
from distri.ranks.buckets import SHARES
from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis, AxisName, TrafficCounter
from distri.ranks.phase import EXACT, Evaluation, Phase
from tests.distri import networks, on_ranks
from tests.distri.exactness import TIME, conditions_of, latent
from tests.distri.pool import Ranks

SIZES = [(256, 256, 2), (304, 208, 1), (232, 264, 1)]


@torch.inference_mode()
def _counted(width: int, height: int, batch: int) -> tuple[list[int], int]:
    """Bytes sent by an exact, a publishing and a displaced evaluation, and the buffers afterwards."""
    mesh = on_ranks.mesh()
    unet = SplitUNet(networks.unet(torch.float32))
    unet.begin(conditions_of(batch), mesh.patch, height // 8, width // 8)
    sent, before = [], mesh.traffic.sent_bytes
    displaced = Evaluation(Phase.DISPLACED, publish=True)
    for evaluation in (EXACT, Evaluation(Phase.SYNCHRONOUS, publish=True), displaced):
        unet(latent(width, height, batch), TIME, evaluation)
        sent.append(mesh.traffic.sent_bytes - before)
        before = mesh.traffic.sent_bytes
    buffers = unet.shapes.buffer_bytes
    unet.remove()
    return sent, buffers


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("width", "height", "batch"), SIZES)
def test_bytes_counted_are_those_of_the_formula(
    ranks: Callable[[int], Ranks], width: int, height: int, batch: int, count: int
) -> None:
    network = networks.unet(torch.float32)
    patches = patches_of(network, height // 8, width // 8, count)
    for index, (sent, buffers) in enumerate(ranks(count).run(_counted, width, height, batch)):
        formula = traffic.of_unet(network, patches, index, batch=batch, element_bytes=4)
        assert sent == [formula.sent, formula.sent, formula.sent_displaced]
        assert buffers == formula.buffers


def test_halos_do_not_grow_with_the_number_of_ranks() -> None:
    network = networks.unet(torch.float32)
    middle = [
        traffic.of_unet(network, patches_of(network, 64, 32, count), 1, batch=1, element_bytes=4).halo_sent
        for count in (3, 4, 5, 8)
    ]
    assert len(set(middle)) == 1


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_what_all_ranks_send_is_what_all_ranks_receive(count: int) -> None:
    network = networks.unet(torch.float32)
    patches = patches_of(network, 45, 33, count)
    every = [traffic.of_unet(network, patches, index, batch=1, element_bytes=2) for index in range(count)]
    assert sum(one.sent for one in every) == sum(one.received for one in every)


def test_one_rank_has_no_traffic() -> None:
    alone = traffic.of_unet(networks.unet(), patches_of(networks.unet(), 32, 32, 1), 0, batch=2, element_bytes=8)
    assert alone == traffic.Traffic(0, 0, 0, 0, 0)


@torch.inference_mode()
def _departures(pixels: int, count: int, shares: tuple[float, ...]) -> list[int]:
    """Bytes of SDXL that leave in each bucket of a middle rank, from shapes alone."""
    with torch.device("meta"):
        unet = SplitUNet(sdxl_unet())
        conditions = Conditions(torch.empty(1, 77, 2048), torch.empty(1, 1280), torch.empty(1, 6))
        side, time = pixels // 8, torch.tensor(1.0)
        latent = torch.empty(1, 4, side, side)
    axis = Axis(AxisName.PATCH, tuple(range(count)), count // 2, None, TrafficCounter())
    unet.begin(conditions, axis, side, side)
    exchange = unet._context.exchange = Exchange(axis, shares=shares)
    exchange.at_cut = lambda _: None
    unet(latent, time, Evaluation(Phase.SYNCHRONOUS, publish=True))
    return [bucket.sent_bytes for bucket in exchange.buckets]


@pytest.mark.parametrize(
    ("pixels", "count", "before", "after"), [(1024, 4, 10.7, 0.7), (1024, 8, 10.6, 0.6), (3840, 8, 10.2, 0.2)]
)
def test_of_what_leaves_in_an_evaluation_of_sdxl_little_leaves_after_its_last_layer(
    pixels: int, count: int, before: float, after: float
) -> None:
    for shares, percent in (((0.125,) * 8, before), (SHARES, after)):
        sizes = _departures(pixels, count, shares)
        assert len(sizes) == 8
        assert 100 * sizes[-1] / sum(sizes) == pytest.approx(percent, abs=0.1)
