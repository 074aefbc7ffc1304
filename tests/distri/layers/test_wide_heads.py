"""Attention by chunks of queries against PyTorch's own."""

from unittest import mock

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from distri.layers import attention
from distri.layers.kernels.fused import FusedKernels
from distri.layers.kernels.softmax import softmax
from distri.layers.vae import SplitVAE
from distri.layers.wide_heads import attend_in_chunks
from distri.ranks.mesh import Mesh
from tests.distri import networks
from tests.distri.networks import relative, seeded

PLAIN, FUSED = FusedKernels(wanted=False), FusedKernels(device_types=["cpu"])


@pytest.mark.parametrize("tokens", [1, 5, 300])
@pytest.mark.parametrize("score_bytes", [1, 8 * 2 * 2 * 331 * 7, 8 * 2 * 2 * 331 * 200, 1 << 28])
def test_chunks_of_any_size_give_the_whole_attention(tokens: int, score_bytes: int) -> None:
    q, k, v = seeded(1, 2, 2, tokens, 24), seeded(2, 2, 2, 331, 24), seeded(3, 2, 2, 331, 24)
    found = attend_in_chunks(q, k, v, PLAIN, score_bytes=score_bytes)
    assert relative(found, scaled_dot_product_attention(q, k, v)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_about_as_near_as_pytorchs_own(dtype: torch.dtype) -> None:
    q, k, v = 3 * seeded(1, 1, 1, 256, 512), 3 * seeded(2, 1, 1, 256, 512), 3 * seeded(3, 1, 1, 256, 512)
    wanted = scaled_dot_product_attention(q, k, v)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    own = relative(scaled_dot_product_attention(q, k, v).double(), wanted)
    assert relative(attend_in_chunks(q, k, v, PLAIN).double(), wanted) < 2 * own


def test_the_fused_softmax_gives_the_same_attention() -> None:
    q, k, v = (seeded(number, 1, 1, 40, 512).half() for number in (1, 2, 3))
    wanted = attend_in_chunks(q, k, v, PLAIN)
    with mock.patch("distri.layers.kernels.softmax.softmax", wraps=softmax) as kernel:
        first = attend_in_chunks(q, k, v, FUSED)
        again = attend_in_chunks(q, k, v, FUSED)
    assert kernel.call_count == 2
    assert torch.equal(first, wanted)  # compared, and the plain result taken
    assert relative(again.double(), wanted.double()) < 2e-3


def test_one_rank_decodes_by_chunks_where_no_fused_kernel_takes_the_head() -> None:
    latent = seeded(4, 1, 4, 9, 7)
    vae = SplitVAE(networks.vae())
    plain, _ = vae.decode(latent, Mesh.single().patch)
    with (
        mock.patch.object(attention, "is_too_wide", return_value=True),
        mock.patch.object(attention, "attend_in_chunks", wraps=attend_in_chunks) as chunks,
    ):
        found, _ = vae.decode(latent, Mesh.single().patch)
    assert chunks.call_count == 1
    assert relative(found, plain) < 1e-11
