"""Messages between ranks can never wait in a circle: every layout's groups, rank by rank, as NCCL would serve them.

NCCL knows no tags: between two ranks the k-th message sent is the k-th received. It serves the groups of a rank one
after the other, and a group ends when all of its messages have met their counterparts. Ranks run in turn here,
on the meta device, and what they post is noted instead of sent.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch

from distri.layers.unet import Conditions, SplitUNet, patches_of
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.mesh import Axis, AxisName, TrafficCounter
from distri.ranks.p2p import Message
from distri.ranks.phase import Evaluation, Phase
from distri.sampling.sharing import gather_prediction
from tests.distri import networks

EVALUATIONS = [
    Evaluation(Phase.SYNCHRONOUS, publish=True),
    Evaluation(Phase.DISPLACED, publish=True),
    Evaluation(Phase.DISPLACED, publish=False),
]


@dataclass(frozen=True)
class Group:
    """One call of `post` by one rank: peers and bytes of what it sends and of what it expects, in order."""

    sends: tuple[tuple[int, int], ...]
    receives: tuple[tuple[int, int], ...]


def _axis(count: int, index: int) -> Axis:
    return Axis(AxisName.PATCH, tuple(range(count)), index, None, TrafficCounter())


def _noted(groups: list[Group]) -> Any:
    def post(_: Axis, sends: Sequence[Message], receives: Sequence[Message]) -> list[Any]:
        of = [tuple((one.peer, one.tensor.nbytes) for one in p2p.in_order(half)) for half in (sends, receives)]
        if any(of):
            groups.append(Group(*of))
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
    sent: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # by pair: bytes, and the sender's group
    received: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for rank, groups in enumerate(ranks):
        for number, group in enumerate(groups):
            for peer, size in group.sends:
                sent[rank, peer].append((size, number))
            for peer, size in group.receives:
                received[peer, rank].append((size, number))
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
