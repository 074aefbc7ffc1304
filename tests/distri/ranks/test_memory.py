"""Activations of the VAE on one rank of N, counted from shapes."""

import pytest

from benchmarks.engine import memory, networks


@pytest.mark.parametrize("half", ["decode", "encode"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_vae_holds_about_its_share_of_the_activations(half: str, count: int) -> None:
    vae = networks.sdxl_vae()
    whole = memory.peak_bytes(vae, half, (1024, 1536), 1)
    assert memory.peak_bytes(vae, half, (1024, 1536), count) * count / whole == pytest.approx(1.0, abs=0.06)
