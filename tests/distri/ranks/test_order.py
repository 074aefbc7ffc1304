"""Messages between ranks can never wait in a circle: every layout's groups, rank by rank, as NCCL would serve them.

NCCL knows no tags: between two ranks the k-th message sent is the k-th received. It serves the groups of a rank one
after the other, and a group ends when all of its messages have met their counterparts. Ranks run in turn here,
on the meta device, and what they post is noted instead of sent.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import nn

from distri.layers.conditions import Conditions
from distri.layers.context import Context
from distri.layers.kernels.fused import FusedKernels
from distri.layers.plan import SplitLayers
from distri.layers.unet import SplitUNet, patches_of
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.exchange import Exchange
from distri.ranks.mesh import Axis, AxisName, Layout, TrafficCounter
from distri.ranks.p2p import Message
from distri.ranks.patches import TokenBalance, split
from distri.ranks.phase import Evaluation, NormMode, Phase
from distri.sampling.sharing import gather_prediction
from tests.distri import networks

EVALUATIONS = [
    Evaluation(Phase.SYNCHRONOUS, publish=True),
    Evaluation(Phase.DISPLACED, publish=True),
    Evaluation(Phase.DISPLACED, publish=False),
]


@dataclass(frozen=True)
class Group:
    """One call of `post` by one rank: peers and bytes of what it sends and of what it expects, in order.

    Attributes:
        communicator: the messages of each are counted by themselves.
    """

    sends: tuple[tuple[int, int], ...]
    receives: tuple[tuple[int, int], ...]
    communicator: object = None


def _axis(count: int, index: int) -> Axis:
    return Axis(AxisName.PATCH, tuple(range(count)), index, None, TrafficCounter())


def _noted(groups: list[Group]) -> Any:
    def post(axis: Axis, sends: Sequence[Message], receives: Sequence[Message]) -> list[Any]:
        sent, received = (
            tuple((axis.ranks[one.peer], one.tensor.nbytes) for one in p2p.in_order(half)) for half in (sends, receives)
        )
        if sent or received:
            groups.append(Group(sent, received, axis.group))
        return []

    return mock.patch.object(p2p, "post", post)


def _groups_of(unet: Any, height: int, width: int, count: int, index: int) -> list[Group]:
    groups: list[Group] = []
    latent = torch.empty(1, 4, height, width, device="meta")
    shapes = ((1, networks.TEXT_TOKENS, networks.TEXT_WIDTH), (1, networks.POOLED_WIDTH), (1, 6))
    conditions = Conditions(*(torch.empty(shape, device="meta") for shape in shapes))
    axis, split = _axis(count, index), SplitUNet(unet)
    with torch.inference_mode(), _noted(groups):
        patches = split.begin(conditions, axis, height, width)
        for evaluation in EVALUATIONS:
            own = split(latent, torch.tensor(1.0, device="meta"), evaluation)
            gather_prediction(axis, count, patches, own, (1,), channels=4)
    split.remove()
    return groups


def meet(ranks: Sequence[Sequence[Group]]) -> Iterator[str]:
    """What goes wrong when NCCL serves these groups; nothing if all is well."""
    # By pair and communicator: bytes, and the sender's or receiver's group.
    sent: dict[tuple[int, int, object], list[tuple[int, int]]] = defaultdict(list)
    received: dict[tuple[int, int, object], list[tuple[int, int]]] = defaultdict(list)
    for rank, groups in enumerate(ranks):
        for number, group in enumerate(groups):
            for peer, size in group.sends:
                sent[rank, peer, group.communicator].append((size, number))
            for peer, size in group.receives:
                received[peer, rank, group.communicator].append((size, number))
    partners: list[list[set[tuple[int, int]]]] = [[set() for _ in groups] for groups in ranks]
    for pair in sent.keys() | received.keys():
        given, expected = [size for size, _ in sent[pair]], [size for size, _ in received[pair]]
        if given != expected:
            yield f"{pair}: {given} sent, {expected} expected"
        for (_, there), (_, here) in zip(sent[pair], received[pair], strict=False):
            partners[pair[0]][there].add((pair[1], here))
            partners[pair[1]][here].add((pair[0], there))
    at = [0] * len(ranks)
    while going := {rank for rank, place in enumerate(at) if place < len(ranks[rank])}:
        # A group ends if those of all partners have ended or are served now and can end as well.
        while stuck := {
            rank
            for rank in going
            if any(
                number > at[peer] or (number == at[peer] and peer not in going)
                for peer, number in partners[rank][at[rank]]
            )
        }:
            going -= stuck
        if not going:
            yield f"nobody goes on at groups {at}"
            return
        for rank in going:
            at[rank] += 1


CASES = [(64, 64, 2), (60, 100, 3), (45, 33, 7)]


@pytest.mark.parametrize(("height", "width", "count"), CASES)
def test_every_message_of_the_unet_meets_its_counterpart(height: int, width: int, count: int) -> None:
    unet = networks.unet(torch.float32, layers_per_block=1).to("meta")
    rows = {patches_of(unet, height, width, count).rows(index) for index in range(count)}
    assert len(rows) > 1 or count == 2, "sizes that divide prove little"
    ranks = [_groups_of(unet, height, width, count, index) for index in range(count)]
    assert all(ranks)
    assert list(meet(ranks)) == []


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("half", ["decode", "encode"])
def test_every_message_of_the_vae_meets_its_counterpart(half: str, count: int) -> None:
    vae = networks.vae(torch.float32).to("meta")
    ranks: list[list[Group]] = []
    for index in range(count):
        ranks.append([])
        split = SplitVAE(vae)
        with torch.inference_mode(), _noted(ranks[-1]):
            whole = torch.empty((1, 4, 17, 12) if half == "decode" else (1, 3, 136, 96), device="meta")
            getattr(split, half)(whole, _axis(count, index))
        split.remove()
    assert all(ranks)
    assert list(meet(ranks)) == []


class Layers:
    """Some of SDXL's layers, each kind that sends, on the ranks of a half: no process, and as small as can be."""

    def __init__(self, count: int, height: int, width: int, *, side_by_side: bool) -> None:
        self.patches = replace(split(height, width, count, unit=2), balance=TokenBalance(0.24, most_work=1.0))
        with torch.device("meta"):
            transformer: Any = Transformer2DModel(1, 4, 4, num_layers=0, norm_num_groups=1, use_linear_projection=True)
            self.network = nn.ModuleList(
                [
                    nn.Conv2d(4, 4, 3, padding=1),
                    nn.GroupNorm(1, 4),
                    nn.Conv2d(4, 4, 3, stride=2, padding=1),
                    transformer,
                    Attention(4, heads=1, dim_head=4),
                ]
            )
            self.latent = torch.empty(1, 4, height, width)
        self.context = Context.alone(NormMode.CORRECTED, FusedKernels(), like=self.latent)
        self.context.side_by_side = side_by_side
        SplitLayers(self.network, self.context, lambda site: int(site >= "3"))
        *self._layers, self._transformer, self._attention = self.network

    def evaluate(self, axis: Axis) -> Iterator[None]:
        """A synchronous and two displaced evaluations."""
        self.context.axis, self.context.patches, self.context.exchange = axis, self.patches, Exchange(axis)
        for evaluation in EVALUATIONS:
            self.context.evaluation = evaluation
            x = self.patches.cut(self.latent, axis.index)
            for layer in self._layers:
                x = layer(x)
            (x,) = self._transformer(x, return_dict=False)
            tokens = self.patches.at(1).tokens[axis.index]
            self._attention(x.new_empty(1, tokens, 4))
            self.context.exchange.end_evaluation()
            yield

    def groups(self, cfg: int) -> list[list[Group]]:
        """What every rank of a pod posts; both halves of guidance send the same among themselves."""
        layout, count = Layout(1, cfg, self.patches.count), self.patches.count
        ranks: list[list[Group]] = []
        for rank in layout.replica(0):
            half, place = divmod(rank, count)
            axis, replica = (
                Axis(name, members, index, (name, members), TrafficCounter(), gather_group=(name, members, "gathers"))
                for name, members, index in (
                    (AxisName.PATCH, layout.half(0, half), place),
                    (AxisName.REPLICA, layout.replica(0), rank),
                )
            )
            ranks.append([])
            with torch.inference_mode(), _noted(ranks[-1]):
                for _ in self.evaluate(axis):
                    own = self.patches.cut(self.latent, place)
                    gather_prediction(replica, count, self.patches, own, (1,) * cfg, channels=4)
        return ranks


@pytest.mark.parametrize("count", range(1, 9))
def test_messages_meet_whatever_the_layout_and_the_size(count: int) -> None:
    """Units that divide and that do not, a last one that is cut short, rows and columns, one row a rank and many."""
    uneven = 0
    for number, (rows, columns) in enumerate(
        [(2 * count, 2), (6 * count + 4, 2), (4 * count + 3, 3), (2, 2 * count + 1)]
    ):
        cfg, side_by_side = 1 + number % 2, number % 3 == 1
        layers = Layers(count, rows, columns, side_by_side=side_by_side)
        uneven += len(layers.patches.at(1).moves)
        groups = layers.groups(cfg)
        assert all(groups) or cfg * count == 1
        assert list(meet(groups)) == []
    assert uneven > 0 or count == 1


def test_circles_and_unlike_messages_are_found() -> None:
    """The test itself can fail."""
    to_1, to_0 = Group(((1, 8),), ()), Group((), ((1, 8),))
    assert list(meet([[to_1, to_0], [Group(((0, 8),), ()), Group((), ((0, 8),))]])) == [
        "nobody goes on at groups [0, 0]"
    ]
    assert list(meet([[Group(((1, 8),), ((1, 8),))], [Group(((0, 8),), ((0, 8),))]])) == []
    assert "4" in next(meet([[Group(((1, 8),), ())], [Group((), ((0, 4),))]]))


def test_messages_of_one_call_go_by_peer_and_tag_and_those_of_nothing_not_at_all() -> None:
    def message(peer: int, tag: int, size: int) -> Message:
        return Message(peer, torch.empty(size, device="meta"), tag)

    given = [message(2, 1, 1), message(1, 1, 2), message(1, 0, 3), message(1, 1, 4), message(0, 0, 0)]
    found = [(one.peer, one.tag, one.tensor.numel()) for one in p2p.in_order(given)]
    assert found == [(1, 0, 3), (1, 1, 2), (1, 1, 4), (2, 1, 1)]
