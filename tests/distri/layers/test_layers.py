"""Each split layer against the plain PyTorch layer in float64, on several ranks.

A synchronous step equals the whole layer; so does a displaced one whose input has not changed since.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from distri.layers.context import Context
from distri.layers.plan import SplitLayers
from distri.ranks.exchange import Exchange
from distri.ranks.patches import TokenBalance, split
from distri.ranks.phase import Evaluation, NormMode, Phase
from tests.distri import on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
LAST_WAITING = Evaluation(Phase.SYNCHRONOUS, publish=True)
DISPLACED = Evaluation(Phase.DISPLACED, publish=True)
NOW = Evaluation(Phase.SYNCHRONOUS, publish=False)
EXACT = 1e-12
SIZES = [(16, 12), (12, 16), (27, 13), (19, 33), (259, 5), (6, 258)]  # rows and columns, even and odd, few and many
COUNTS = [2, 3, 4]
SIDE_BY_SIDE = ", keys and values side by side"


def _layer(kind: str) -> Any:
    torch.manual_seed(3)
    layers: dict[str, Callable[[], Any]] = {
        "conv3": lambda: nn.Conv2d(4, 6, 3, padding=1),
        "conv3 stride 2": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
        "conv1": lambda: nn.Conv2d(4, 6, 1),
        "norm": lambda: nn.GroupNorm(2, 4, eps=1e-5),
        "norm without weights": lambda: nn.GroupNorm(2, 4, affine=False),
        "attention": lambda: Attention(query_dim=4, heads=2, dim_head=2),
        "vae attention": lambda: Attention(
            query_dim=4, heads=1, dim_head=4, norm_num_groups=2, residual_connection=True, bias=True
        ),
    }
    for projection in ("linear", "convolution"):
        layers[f"transformer, {projection}"] = partial(
            Transformer2DModel,
            num_attention_heads=2,
            attention_head_dim=2,
            in_channels=4,
            num_layers=2,
            norm_num_groups=2,
            use_linear_projection=projection == "linear",
        )
    network = nn.ModuleList([layers[kind.removesuffix(SIDE_BY_SIDE)]()]).double().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.5)
    return network


def _input(kind: str, seed: int, height: int, width: int) -> Tensor:
    return 3 + seeded(seed, 2, 4, height, width)


def _apply(kind: str, layer: Any, x_BCHW: Tensor) -> Tensor:
    out: Tensor
    if kind.startswith("transformer"):
        [out] = layer(x_BCHW, return_dict=False)
        return out
    if kind.removesuffix(SIDE_BY_SIDE) != "attention":
        out = layer(x_BCHW)
        return out
    out = layer(x_BCHW.flatten(2).transpose(1, 2))
    return out.transpose(1, 2).reshape(x_BCHW.shape)


def _run(kind: str, height: int, width: int, mode: NormMode | None, plan: list[tuple[int, Evaluation]]) -> list[Tensor]:
    """This rank's outputs of a layer for inputs of given seeds, each in a phase; no mode: of keys and values alone."""
    mesh = on_ranks.mesh()
    patches = split(height, width, mesh.patch.size, unit=4)
    if kind.startswith("transformer"):
        patches = replace(patches, balance=TokenBalance(rows_share=0.0, most_work=1.0))
    context = Context(mesh.patch, patches, Exchange(mesh.patch, shares=(0.5, 0.5)))
    context.norm_mode = mode or NormMode.CORRECTED
    context.side_by_side = kind.endswith(SIDE_BY_SIDE)
    network = _layer(kind)
    layers = SplitLayers(network, context, lambda _: 0)
    outputs = []
    for seed, evaluation in plan:
        context.evaluation = replace(evaluation, rest=NOW) if mode is None else evaluation
        own = patches.cut(_input(kind, seed, height, width), mesh.patch.index)
        outputs.append(_apply(kind, network[0], own).clone())
        context.exchange.end_evaluation()
    context.exchange.drain()
    layers.remove()
    return outputs


def _whole(kind: str, seed: int, height: int, width: int) -> Tensor:
    return _apply(kind, _layer(kind)[0], _input(kind, seed, height, width))


def _joined(answers: list[list[Tensor]], step: int, height: int, width: int) -> Tensor:
    dim = split(height, width, 1, unit=4).dim
    return torch.cat([answer[step] for answer in answers], dim=dim)


KINDS = ["conv3", "conv3 stride 2", "conv1", "norm", "norm without weights", "attention", "vae attention"]
KINDS += ["transformer, linear", "transformer, convolution"]  # of self-attention alone, tokens shared evenly
KINDS += [kind + SIDE_BY_SIDE for kind in ("attention", "vae attention", "transformer, linear")]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_waiting_or_with_unchanged_input_a_split_layer_is_the_whole_layer(
    ranks: GetRanks, kind: str, height: int, width: int, count: int
) -> None:
    plan = [(1, LAST_WAITING), (1, DISPLACED), (1, DISPLACED)]
    answers = ranks(count).run(_run, kind, height, width, NormMode.CORRECTED, plan)
    wanted = _whole(kind, 1, height, width)
    for step in range(len(plan)):
        assert relative(_joined(answers, step, height, width), wanted) < EXACT


@pytest.mark.parametrize("kind", ["conv3", "conv3 stride 2", "norm"])
def test_with_keys_and_values_alone_displaced_other_layers_see_everything_now(ranks: GetRanks, kind: str) -> None:
    plan = [(1, LAST_WAITING), (2, DISPLACED), (3, DISPLACED)]
    answers = ranks(3).run(_run, kind, 16, 12, None, plan)
    for step, seed in ((1, 2), (2, 3)):
        assert relative(_joined(answers, step, 16, 12), _whole(kind, seed, 16, 12)) < EXACT


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, NormMode.CORRECTED) for kind in ("conv3", "conv3 stride 2", "attention", "attention" + SIDE_BY_SIDE)),
        *((kind, None) for kind in ("attention", "attention" + SIDE_BY_SIDE)),
    ],
)
def test_a_displaced_layer_sees_its_own_input_now_and_the_others_before(
    ranks: GetRanks, kind: str, mode: NormMode | None
) -> None:
    height, width = 16, 12
    plan = [(1, LAST_WAITING), (2, DISPLACED)]
    answers = ranks(2).run(_run, kind, height, width, mode, plan)
    for rank in range(2):
        patches = split(height, width, 2, unit=4)
        mixed = _input(kind, 1, height, width)
        patches.cut(mixed, rank).copy_(patches.cut(_input(kind, 2, height, width), rank))
        whole = _apply(kind, _layer(kind)[0], mixed)
        halved = patches.at(1) if kind == "conv3 stride 2" else patches
        assert relative(answers[rank][1], halved.cut(whole, rank)) < EXACT


@pytest.mark.parametrize("count", COUNTS)
def test_synchronous_norm_is_exact_in_the_displaced_phase(ranks: GetRanks, count: int) -> None:
    plan = [(1, LAST_WAITING), (2, DISPLACED)]
    answers = ranks(count).run(_run, "norm", 27, 13, NormMode.SYNCHRONOUS, plan)
    assert relative(_joined(answers, 1, 27, 13), _whole("norm", 2, 27, 13)) < EXACT


def test_local_norm_is_each_patchs_own(ranks: GetRanks) -> None:
    answers = ranks(2).run(_run, "norm", 16, 12, NormMode.LOCAL, [(1, LAST_WAITING), (2, DISPLACED)])
    assert relative(_joined(answers, 0, 16, 12), _whole("norm", 1, 16, 12)) < EXACT
    patches = split(16, 12, 2, unit=4)
    for rank in range(2):
        own = patches.cut(_input("norm", 2, 16, 12), rank)
        assert relative(answers[rank][1], _layer("norm")[0](own)) < EXACT


def test_stale_norm_merges_own_fresh_with_others_stale(ranks: GetRanks) -> None:
    answers = ranks(3).run(_run, "norm", 24, 12, NormMode.STALE, [(1, LAST_WAITING), (2, DISPLACED)])
    patches = split(24, 12, 3, unit=4)
    for rank in range(3):
        mixed = _input("norm", 1, 24, 12)
        patches.cut(mixed, rank).copy_(patches.cut(_input("norm", 2, 24, 12), rank))
        assert relative(answers[rank][1], patches.cut(_layer("norm")[0](mixed), rank)) < EXACT


def _traffic(kind: str, height: int, width: int) -> tuple[list[int], int]:
    mesh = on_ranks.mesh()
    sent = [mesh.traffic.sent_bytes]
    for plan in ([(1, LAST_WAITING)], [(1, LAST_WAITING), (1, DISPLACED)]):
        _run(kind, height, width, NormMode.CORRECTED, plan)
        sent.append(mesh.traffic.sent_bytes)
    return [sent[1] - sent[0], sent[2] - sent[1]], mesh.rank


@pytest.mark.parametrize("count", COUNTS)
def test_bytes_sent_follow_the_formulas(ranks: GetRanks, count: int) -> None:
    """Halos: one row a neighbour, whatever the number of ranks. Keys, values and moments: to every other rank."""
    for (waiting, both), rank in ranks(count).run(_traffic, "conv3", 32, 12):
        neighbours = (rank > 0) + (rank < count - 1)
        assert waiting == neighbours * 2 * 4 * 12 * 8
        assert both == 2 * waiting
    for (waiting, both), rank in ranks(count).run(_traffic, "attention", 32, 12):
        tokens = split(32, 12, count, unit=4).area(rank)
        assert waiting == (count - 1) * 2 * 2 * tokens * 4 * 8
        assert both == 2 * waiting
    for (waiting, _), _rank in ranks(count).run(_traffic, "norm", 32, 12):
        assert waiting == (count - 1) * 2 * 2 * 2 * 8


def test_a_transformer_hands_tokens_on_and_takes_them_back(ranks: GetRanks) -> None:
    """8 units of 48 tokens on 3 ranks: 96, 144 and 144, where 128 would be even."""
    answers = ranks(3).run(_traffic, "transformer, linear", 32, 12)
    for ((waiting, both), _), moved in zip(answers, (32, 16, 16), strict=True):
        keys_and_values = 2 * (2 * 2 * 2 * 128 * 4 * 8)  # layers; peers, keys and values, batch
        assert waiting == keys_and_values + 2 * moved * 4 * 8 + 2 * 2 * 2 * 2 * 8  # and the norm's moments
        assert both == 2 * waiting
