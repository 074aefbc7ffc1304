"""The traffic formulas of the docs are what the wire counts and the exchange allocates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.engine.networks import sdxl_unet
from distri.layers import traffic
from distri.layers.conditions import Conditions
from distri.layers.controlnet import ControlRows, Shown
from distri.layers.references import ReferenceRows
from distri.layers.unet import SplitUNet, patches_of
from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis, AxisName, TrafficCounter
from distri.ranks.phase import EXACT, Evaluation, Phase
from tests.distri import networks, on_ranks
from tests.distri.exactness import TIME, conditions_of, latent
from tests.distri.networks import seeded
from tests.distri.pool import Ranks

DISPLACED = Evaluation(Phase.DISPLACED, publish=True)
PHASES = (EXACT, Evaluation(Phase.SYNCHRONOUS, publish=True), DISPLACED)
# Keys and values alone, twice, then all.
SETTLING = (
    Evaluation(Phase.SYNCHRONOUS, publish=True, rest=EXACT),
    Evaluation(Phase.DISPLACED, publish=True, rest=EXACT),
    Evaluation(Phase.DISPLACED, publish=True, rest=Evaluation(Phase.SYNCHRONOUS, publish=True)),
    DISPLACED,
)
SIZES = [(256, 256, 2), (304, 208, 1), (232, 264, 1)]


@torch.inference_mode()
def _counted(
    width: int, height: int, batch: int, *, referring: bool = False, phases: Sequence[Evaluation] = PHASES
) -> tuple[list[int], list[int]]:
    """Bytes sent by an exact, a publishing and a displaced evaluation, or by others, and the buffers after each."""
    mesh = on_ranks.mesh()
    network = networks.unet(torch.float32)
    conditions = replace(conditions_of(batch), references=(_reference(network, batch),) if referring else ())
    unet = SplitUNet(network)
    unet.begin(conditions, mesh.patch, height // 8, width // 8)
    sent, buffers, before = [], [], mesh.traffic.sent_bytes
    for evaluation in phases:
        unet(latent(width, height, batch), TIME, evaluation)
        sent.append(mesh.traffic.sent_bytes - before)
        buffers.append(unet.shapes.buffer_bytes)
        before = mesh.traffic.sent_bytes
    unet.remove()
    return sent, buffers


def _reference(network: Any, batch: int) -> ReferenceRows:
    """A picture that all layers attend to, in half of the image."""
    projections = {
        site: (module.to_k.weight, module.to_v.weight)
        for site, module in network.named_modules()
        if type(module).__name__ == "Attention" and module.is_cross_attention
    }
    tokens = seeded(7, batch, 4, networks.TEXT_WIDTH, dtype=torch.float32)
    mask = (torch.arange(64) < 32).float().expand(batch, 1, 64, 64)
    return ReferenceRows("adapter", projections, tokens, torch.ones(batch, 1, 1), mask)


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
        assert buffers == [0, formula.buffers, formula.buffers]


def _counted_settling(width: int, height: int, batch: int) -> tuple[list[int], list[int]]:
    return _counted(width, height, batch, phases=SETTLING)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("width", "height", "batch"), SIZES)
def test_where_keys_and_values_alone_are_displaced_the_rest_has_no_buffers_yet(
    ranks: Callable[[int], Ranks], width: int, height: int, batch: int, count: int
) -> None:
    network = networks.unet(torch.float32)
    patches = patches_of(network, height // 8, width // 8, count)
    for index, (sent, buffers) in enumerate(ranks(count).run(_counted_settling, width, height, batch)):
        formula = traffic.of_unet(network, patches, index, batch=batch, element_bytes=4)
        assert sent == [formula.sent, *[formula.sent_displaced_kv] * 2, formula.sent_displaced]
        assert buffers == [*[formula.buffers_kv] * 2, *[formula.buffers] * 2]
        assert formula.buffers_kv < formula.buffers


@pytest.mark.parametrize(("pixels", "percent"), [(1024, 8), (2048, 7)])
def test_what_is_waited_for_beside_displaced_keys_and_values_of_sdxl_is_little(pixels: int, percent: float) -> None:
    with torch.device("meta"):
        network = sdxl_unet()
    found = traffic.of_unet(network, patches_of(network, pixels // 8, pixels // 8, 8), 3, batch=2, element_bytes=2)
    waited = found.sent_displaced_kv - found.late_kv
    assert 0 < 100 * waited / found.sent < percent


def _counted_referring() -> tuple[list[int], list[int]]:
    return _counted(264, 232, 1, referring=True)


def test_references_add_no_bytes_and_no_buffers(ranks: Callable[[int], Ranks]) -> None:
    network = networks.unet(torch.float32)
    patches = patches_of(network, 29, 33, 3)
    for index, (sent, buffers) in enumerate(ranks(3).run(_counted_referring)):
        formula = traffic.of_unet(network, patches, index, batch=1, element_bytes=4)
        assert sent == [formula.sent, formula.sent, formula.sent_displaced]
        assert buffers == [0, formula.buffers, formula.buffers]


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
def _departures(pixels: int, count: int) -> list[int]:
    """Bytes of SDXL that leave in each bucket of a middle rank, from shapes alone."""
    with torch.device("meta"):
        unet = SplitUNet(sdxl_unet())
        conditions = Conditions(torch.empty(1, 77, 2048), torch.empty(1, 1280), torch.empty(1, 6))
        side, time = pixels // 8, torch.tensor(1.0)
        latent = torch.empty(1, 4, side, side)
    axis = Axis(AxisName.PATCH, tuple(range(count)), count // 2, None, TrafficCounter())
    unet.begin(conditions, axis, side, side)
    exchange = unet._context.exchange = Exchange(axis)
    exchange.at_cut = lambda _: None
    unet(latent, time, Evaluation(Phase.SYNCHRONOUS, publish=True))
    return [bucket.sent_bytes for bucket in exchange.buckets]


@pytest.mark.parametrize(("pixels", "count", "percent"), [(1024, 4, 0.7), (1024, 8, 0.6), (3840, 8, 0.2)])
def test_of_what_leaves_in_an_evaluation_of_sdxl_little_leaves_after_its_last_layer(
    pixels: int, count: int, percent: float
) -> None:
    """Keys and values leave in the first seven buckets, the last of them layers before; the rest in three."""
    sizes = _departures(pixels, count)
    assert len(sizes) == 7 + 3
    assert 100 * sizes[-1] / sum(sizes) == pytest.approx(percent, abs=0.1)
    assert 100 * sum(sizes[7:]) / sum(sizes) < 8


@torch.inference_mode()
def _counted_steered() -> tuple[list[int], int, list[torch.Tensor]]:
    """The same of an evaluation that a control network steers, and its three predictions."""
    mesh = on_ranks.mesh()
    unet = SplitUNet(networks.unet(torch.float32))
    unet.add_controlnet("c", networks.controlnet(torch.float32))
    seen = unet.controlnet("c").embed([Shown(seeded(4, 1, 3, 232, 264, dtype=torch.float32))])
    control = [ControlRows("c", seen, torch.ones(1))]
    unet.begin(conditions_of(1), mesh.patch, 29, 33, control=control)
    sent, found, before = [], [], mesh.traffic.sent_bytes
    displaced = Evaluation(Phase.DISPLACED, publish=True)
    for evaluation in (EXACT, Evaluation(Phase.SYNCHRONOUS, publish=True), displaced):
        found.append(unet(latent(264, 232, 1), TIME, evaluation))
        sent.append(mesh.traffic.sent_bytes - before)
        before = mesh.traffic.sent_bytes
    buffers = unet.shapes.buffer_bytes
    unet.remove()
    return sent, buffers, found


def test_a_control_network_adds_its_own_bytes_by_the_same_formula(ranks: Callable[[int], Ranks]) -> None:
    own, control = networks.unet(torch.float32), networks.controlnet(torch.float32)
    patches = patches_of(own, 29, 33, 3)
    answers = ranks(3).run(_counted_steered)
    for index, (sent, buffers, _) in enumerate(answers):
        parts = [traffic.of_unet(one, patches, index, batch=1, element_bytes=4) for one in (own, control)]
        assert sent[:2] == [sum(part.sent for part in parts)] * 2
        assert sent[2] == sum(part.sent_displaced for part in parts)
        assert buffers == sum(part.buffers for part in parts)
    exact, *others = (torch.cat([found[step] for _, _, found in answers], dim=patches.dim) for step in range(3))
    assert all(torch.allclose(one, exact, atol=1e-5) for one in others)  # of unchanged input
