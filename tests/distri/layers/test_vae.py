"""The split VAE against plain diffusers, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distri.layers.vae import SplitVAE
from distri.ranks.errors import BadSize
from distri.ranks.mesh import Mesh
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

SIZES = [(8, 8), (5, 7), (13, 6), (4, 11), (39, 3), (3, 42)]  # the last two: borders apart, rows and columns


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


def _encode() -> list[tuple[Tensor, Tensor]]:
    mesh = on_ranks.mesh()
    vae = SplitVAE(networks.vae())
    parts = [vae.encode(seeded(4, 1, 3, 8 * height, 8 * width), mesh.replica)[:2] for height, width in SIZES]
    vae.remove()
    return parts


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_split_encoder_is_the_plain_encoder(ranks: Callable[[int], Ranks], count: int) -> None:
    answers = ranks(count).run(_encode)
    plain = networks.vae()
    for step, (height, width) in enumerate(SIZES):
        posterior = plain.encode(seeded(4, 1, 3, 8 * height, 8 * width)).latent_dist
        dim = 3 if width > height else 2
        for kind, wanted in enumerate((posterior.mean, posterior.std)):
            found = torch.cat([parts[step][kind] for parts in answers], dim=dim)
            assert relative(found, wanted * plain.config.scaling_factor) < 1e-11


def test_an_image_that_is_no_multiple_of_eight_is_not_encoded() -> None:
    with pytest.raises(BadSize, match="20x16"):
        SplitVAE(networks.vae()).encode(seeded(4, 1, 3, 16, 20), Mesh.single().patch)
