"""A VAE in strips against plain diffusers, in float64, and what it holds meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.engine.memory import LiveBytes
from distri.layers import strips
from distri.layers.vae import SplitVAE
from distri.ranks.memory import memory_of
from distri.ranks.mesh import Mesh
from distri.sampling.pixels import LEAN_BYTES, SHARE_OF_MEMORY, WIDEST_AT_ONCE, ReplicaVAE
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

SIZES = [(24, 5), (5, 26), (31, 7)]  # latents: rows, columns, an odd number of rows
FEW_BYTES = 1 << 16  # of an activation: less than the two finest resolutions have


def _halves() -> list[tuple[Tensor, Tensor, Tensor]]:
    mesh = on_ranks.mesh()
    vae = SplitVAE(networks.vae(), most_bytes=FEW_BYTES)
    found = []
    for height, width in SIZES:
        picture = vae.decode(seeded(4, 1, 4, height, width), mesh.replica)[0]
        found.append((picture, *vae.encode(seeded(5, 1, 3, 8 * height, 8 * width), mesh.replica)[:2]))
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_strips_give_what_the_plain_network_gives(ranks: Callable[[int], Ranks], count: int) -> None:
    answers = ranks(count).run(_halves)
    plain = networks.vae()
    for step, (height, width) in enumerate(SIZES):
        dim = 3 if width > height else 2
        posterior = plain.encode(seeded(5, 1, 3, 8 * height, 8 * width)).latent_dist
        factor = plain.config.scaling_factor
        picture = plain.decode(seeded(4, 1, 4, height, width) / factor).sample
        for kind, wanted in enumerate((picture, posterior.mean * factor, posterior.std * factor)):
            assert relative(torch.cat([parts[step][kind] for parts in answers], dim=dim), wanted) < 1e-11


def _peak(work: Callable[[], Any]) -> int:
    with LiveBytes() as live:
        work()
    return int(live.peak)


def test_what_is_held_is_bounded_by_what_stands_between_segments() -> None:
    alone = Mesh.single().patch
    whole, narrow = SplitVAE(networks.vae()), SplitVAE(networks.vae(), most_bytes=4 * FEW_BYTES)
    latent, picture = seeded(4, 1, 4, 96, 4), seeded(5, 1, 3, 768, 32)
    assert _peak(lambda: narrow.decode(latent, alone)) < 0.5 * _peak(lambda: whole.decode(latent, alone))
    assert _peak(lambda: narrow.encode(picture, alone)) < 0.5 * _peak(lambda: whole.encode(picture, alone))


def test_only_what_is_too_wide_is_computed_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    in_strips = strips.in_strips

    def counted(segment: strips.Segment, *args: Any, **options: Any) -> Tensor:
        found.append(len(segment.pieces))
        return in_strips(segment, *args, **options)

    monkeypatch.setattr(strips, "in_strips", counted)
    alone, latent = Mesh.single().patch, seeded(4, 1, 4, 24, 5)
    widest = 8 * (8 * 24) * (8 * 5) * 8  # channels at full size, rows, columns, bytes of float64
    SplitVAE(networks.vae(), most_bytes=widest).decode(latent, alone)
    assert not found
    SplitVAE(networks.vae(), most_bytes=widest - 1).decode(latent, alone)
    assert len(found) == 1


def test_memory_decides_what_is_too_wide_and_little_of_it_is_used_where_it_has_run_out() -> None:
    vae = SplitVAE(networks.vae())
    of_replica = ReplicaVAE(vae, Mesh.single(), memory_bytes=80e9)
    usual = vae.most_bytes
    assert WIDEST_AT_ONCE * usual == SHARE_OF_MEMORY * 80e9
    of_replica.save_memory(wanted=True)
    assert vae.most_bytes == LEAN_BYTES < usual
    of_replica.save_memory(wanted=False)
    assert vae.most_bytes == usual
    assert 1 << 30 < 2 * memory_of(torch.device("cpu"), 2) <= memory_of(torch.device("cpu"), 1)
