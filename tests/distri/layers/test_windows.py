"""Attention within windows against a plain masked attention over the whole picture, in float64, on any ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.engine.networks import sdxl_unet
from distri.layers import arithmetic, traffic
from distri.layers.unet import SplitUNet, patches_of
from distri.layers.windows import Windows, blocks_of, shift_of
from distri.ranks.mesh import Mesh
from distri.ranks.patches import split
from distri.ranks.phase import EXACT, Evaluation
from pipeline.deployment import cost
from tests.distri import networks, on_ranks
from tests.distri.layers.test_arithmetic import operations
from tests.distri.layers.test_unet import DISPLACED, LAST_WAITING, TIME, _conditions, _latent
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
SIZES = [(27, 41), (33, 20), (13, 30), (26, 19)]
WINDOW = 12


def _sees(length: int, side: int, shift: int = 0) -> Tensor:
    """By query and key along one dimension, whether it is within the window: the definition, written out plainly."""
    sees = torch.zeros(length, length, dtype=torch.bool)
    width = max(1, side // 2)
    for query in range(length):
        start = (query - shift) // width * width + shift - (side - width) // 2
        start = max(0, min(start, length - side))
        sees[query, start : start + side] = True
    return sees


def _mask(height: int, width: int, side: int, shift: int = 0) -> Tensor:
    """By query and key, tokens counted row by row."""
    return torch.kron(_sees(height, side, shift), _sees(width, side, shift))


class _Masked:
    """A processor of diffusers' for self-attention with a mask over the whole picture."""

    def __init__(self, height: int, width: int, window: int, site: str) -> None:
        self.site = site
        self.sizes = [(-(-height >> level), -(-width >> level), -(-window >> level)) for level in range(3)]

    def __call__(self, attn: Any, x_BTC: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        seen = x_BTC if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            projected.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(x_BTC), attn.to_k(seen), attn.to_v(seen))
        )
        mask = None
        if encoder_hidden_states is None:
            size = next(size for size in self.sizes if size[0] * size[1] == x_BTC.shape[1])
            mask = _mask(*size, shift=shift_of(self.site, size[2]))
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return torch.as_tensor(attn.to_out[0](out.transpose(1, 2).flatten(2)))


def _plain(batch: int, height: int, width: int, change: int = 0) -> Tensor:
    network, conditions = networks.unet(), _conditions(batch)
    sites = {name: name.removesuffix(".processor") for name in network.attn_processors}
    assert len({shift_of(site, 8) for site in sites.values() if site.endswith("attn1")}) >= 3
    network.set_attn_processor({name: _Masked(height, width, WINDOW, site) for name, site in sites.items()})
    added = {"text_embeds": conditions.pooled, "time_ids": conditions.time_ids}
    latent = _latent(change, batch, height, width)
    return torch.as_tensor(network(latent, TIME, conditions.text, added_cond_kwargs=added, return_dict=False)[0])


@torch.inference_mode()
def _run(sizes: list[tuple[int, int]], phases: list[Evaluation], batch: int) -> list[list[Tensor]]:
    """This rank's part of each evaluation, by size."""
    mesh, answers = on_ranks.mesh(), []
    unet = SplitUNet(networks.unet())
    for height, width in sizes:
        unet.begin(_conditions(batch), mesh.patch, height, width, window=WINDOW)
        answers.append([unet(_latent(0, batch, height, width), TIME, phase).clone() for phase in phases])
        unet.end()
    unet.remove()
    return answers


@pytest.mark.parametrize("count", [2, 3, 4])
def test_windows_are_a_masked_attention_whatever_the_ranks_and_the_size(ranks: GetRanks, count: int) -> None:
    """Exact, and displaced where nothing has changed."""
    phases = [EXACT, LAST_WAITING, DISPLACED, DISPLACED]
    answers = ranks(count).run(_run, SIZES, phases, 2)
    for place, (height, width) in enumerate(SIZES):
        wanted = _plain(2, height, width)
        for step in range(len(phases)):
            found = torch.cat([answer[place][step] for answer in answers], dim=3 if width > height else 2)
            assert relative(found, wanted) < 1e-11


def test_one_rank_computes_windows_as_well() -> None:
    unet = SplitUNet(networks.unet())
    unet.begin(_conditions(1), Mesh.single().patch, 27, 41, window=WINDOW)
    assert relative(unet(_latent(0, 1, 27, 41), TIME, EXACT), _plain(1, 27, 41)) < 1e-11


def test_a_picture_within_one_window_is_attended_to_as_a_whole() -> None:
    unet, outputs = SplitUNet(networks.unet()), []
    for window in (None, 16):
        unet.begin(_conditions(1), Mesh.single().patch, 16, 13, window=window)
        outputs.append(unet(_latent(0, 1, 16, 13), TIME, EXACT))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_every_row_is_in_one_block_and_sees_a_whole_window_around_it(side: int, quarters: int) -> None:
    for length in range(1, 40):
        blocks = blocks_of(length, side, quarters * max(1, side // 2) // 4)
        assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(length))
        for block in blocks:
            assert block.size == min(length, side)
            assert 0 <= block.first <= block.start < block.stop <= block.first + block.size <= length


@pytest.mark.parametrize(("height", "width"), [(27, 41), (64, 64), (45, 33)])
@pytest.mark.parametrize(("count", "shift"), [(2, 2), (3, 0), (5, 1), (8, 2)])
def test_no_score_outside_a_window_is_computed(height: int, width: int, count: int, shift: int) -> None:
    """All blocks of all ranks together ask for as many scores as tokens see keys."""
    windows = Windows(split(height, width, count, unit=1), 8, shift)
    channels, scores = 2, 0

    def attend(q_BTC: Tensor, k_BKC: Tensor, v_BKC: Tensor) -> Tensor:
        nonlocal scores
        scores += q_BTC.shape[0] * q_BTC.shape[1] * k_BKC.shape[1]
        return scaled_dot_product_attention(q_BTC, k_BKC, v_BKC)

    whole = seeded(1, 1, height, width, channels)
    parts = []
    for index in range(count):
        first, end = windows.seen(index)
        seen = whole.narrow(windows.patches.dim - 1, first, end - first)
        own = whole.narrow(windows.patches.dim - 1, *(windows.patches.edges[index], windows.patches.rows(index)))
        parts.append(windows.attend(index, own, seen, seen, attend))
    assert scores == height * width * windows.keys
    flat = whole.flatten(1, 2)
    wanted = scaled_dot_product_attention(flat, flat, flat, attn_mask=_mask(height, width, 8, shift))
    assert relative(torch.cat(parts, windows.patches.dim - 1).flatten(1, 2), wanted) < 1e-12


@torch.inference_mode()
def _counted(height: int, width: int) -> tuple[list[int], int]:
    mesh = on_ranks.mesh()
    unet = SplitUNet(networks.unet())
    unet.begin(_conditions(1), mesh.patch, height, width, window=WINDOW)
    sent, before = [], mesh.traffic.sent_bytes
    for evaluation in (EXACT, LAST_WAITING, DISPLACED):
        unet(_latent(0, 1, height, width), TIME, evaluation)
        sent.append(mesh.traffic.sent_bytes - before)
        before = mesh.traffic.sent_bytes
    buffers = unet.shapes.buffer_bytes
    unet.remove()
    return sent, buffers


@pytest.mark.parametrize(("height", "width", "count"), [(33, 45, 2), (57, 20, 3), (48, 48, 4)])
def test_bytes_counted_are_those_of_the_formula(ranks: GetRanks, height: int, width: int, count: int) -> None:
    network = networks.unet()
    patches = patches_of(network, height, width, count, window=WINDOW)
    for index, (sent, buffers) in enumerate(ranks(count).run(_counted, height, width)):
        formula = traffic.of_unet(network, patches, index, batch=1, element_bytes=8, window=WINDOW)
        assert sent == [formula.sent, formula.sent, formula.sent_displaced]
        assert buffers == formula.buffers


@pytest.mark.parametrize(("height", "width"), [(48, 48), (45, 33)])
def test_operations_counted_are_those_of_the_formula(height: int, width: int) -> None:
    unet = networks.unet(torch.float32).to("meta")
    counted = operations(unet, height, width, 1, 0, window=WINDOW)
    of_shapes = arithmetic.of_unet(unet, height, width, window=WINDOW)
    assert 2 * (of_shapes.rows + of_shapes.tokens) == pytest.approx(counted, rel=1e-3)


def test_an_evaluation_of_sdxl_at_4096_px_is_what_its_cost_says() -> None:
    """Counted, and by `pipeline.deployment.cost`: 107 T operations within windows, 288 T without."""
    counted = operations(sdxl_unet(), 512, 512, 1, 0, window=128)
    assert counted / 1e12 == pytest.approx(cost.unet_tera(16.0, 1024), rel=2e-3)
    assert cost.unet_tera(16.0, None) == pytest.approx(288, abs=1)


def test_a_windowed_pass_at_4096_px_on_2x4_keeps_and_sends_at_most_a_third() -> None:
    unet = sdxl_unet()
    whole, windowed = (
        traffic.of_unet(unet, patches_of(unet, 512, 512, 4, window=window), 1, batch=1, element_bytes=2, window=window)
        for window in (None, 128)
    )
    assert windowed.buffers <= whole.buffers / 3
    assert windowed.received <= whole.received / 3
    assert windowed.sent_displaced <= whole.sent_displaced / 3
