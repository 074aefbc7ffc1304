"""Weights that are put back bit for bit, from one copy a replica."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distri.model.adapters.originals import AT_ONCE, Originals
from tests.distri import on_ranks
from tests.distri.networks import seeded
from tests.distri.pool import Ranks


def _weights() -> list[Tensor]:
    """More than one batch of messages, of several number formats; some are dense but not contiguous."""
    many = [seeded(number, 3, 5).float() for number in range(AT_ONCE)]
    convolution = seeded(50, 4, 3, 2, 2).half().to(memory_format=torch.channels_last)
    return [seeded(60, 7).to(torch.bfloat16), convolution, *many, seeded(61, 3, 2).T]


def _kept_and_restored(rounds: int) -> tuple[bool, bool, int, int]:
    mesh = on_ranks.mesh()
    weights, wanted = _weights(), _weights()
    places = [weight.data_ptr() for weight in weights]
    originals = Originals(mesh.patch)
    originals.restore()  # nothing was kept yet
    for _ in range(rounds):
        originals.keep(weights)
        for weight in weights:
            weight.mul_(3).add_(mesh.rank)
        originals.restore()
    same = all(torch.equal(weight, one) for weight, one in zip(weights, wanted, strict=True))
    in_place = places == [weight.data_ptr() for weight in weights]
    return same, in_place, originals._kept.nbytes, sum(weight.nbytes for weight in wanted)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_weights_come_back_on_every_rank_from_the_copy_of_the_first(ranks: Callable[[int], Ranks], count: int) -> None:
    (_, _, kept, size), *others = answers = ranks(count).run(_kept_and_restored, 2)
    assert all(same and in_place for same, in_place, _, _ in answers)
    assert kept == size
    assert [other[2] for other in others] == [0] * (count - 1)
