"""The split decoder against plain diffusers, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distri.vae import SplitVAE
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

SIZES = [(8, 8), (5, 7), (13, 6), (4, 11)]


def _decode() -> list[Tensor]:
    mesh = on_ranks.mesh()
    vae = SplitVAE(networks.vae())
    parts = [vae.decode(seeded(4, 1, 4, height, width), mesh.replica)[0] for height, width in SIZES]
    vae.remove()
    return parts


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_split_decoder_is_the_plain_decoder(ranks: Callable[[int], Ranks], count: int) -> None:
    answers = ranks(count).run(_decode)
    plain = networks.vae()
    for step, (height, width) in enumerate(SIZES):
        wanted = plain.decode(seeded(4, 1, 4, height, width) / plain.config.scaling_factor).sample
        dim = 3 if width > height else 2
        assert relative(torch.cat([parts[step] for parts in answers], dim=dim), wanted) < 1e-11
