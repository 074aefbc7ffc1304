"""Keys and values as residuals: their code, that it converges, and what crosses between real ranks."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.engine.networks import sdxl_unet
from distri.engine import EngineSettings
from distri.layers import traffic
from distri.layers.unet import SplitUNet, patches_of
from distri.model.image import ImageSpec
from distri.ranks.phase import EXACT, Evaluation, Exchanged, Phase
from distri.ranks.ternary import GROUP, code_bytes, decoded, encoded
from tests.distri import networks, on_ranks
from tests.distri.exactness import TIME, conditions_of, latent
from tests.distri.networks import seeded
from tests.distri.pool import Ranks

BASE = Evaluation(Phase.SYNCHRONOUS, publish=True)
RESIDUAL = Evaluation(Phase.DISPLACED, publish=True)


@pytest.mark.parametrize("numbers", [1, 4, 64, GROUP, 81, 640])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_has_its_bytes_and_a_fifth_of_gaussian_numbers_is_lost(numbers: int, dtype: torch.dtype) -> None:
    x = seeded(1, 2, 400, numbers, dtype=dtype)
    code = encoded(x)
    assert (code.dtype, code.shape) == (torch.uint8, (2, 400, code_bytes(numbers)))
    lost = (decoded(code, numbers) - x.float()).square().mean() / x.float().square().mean()
    assert lost < 0.22
    assert not decoded(encoded(torch.zeros(3, numbers)), numbers).any()


def test_every_level_of_every_place_comes_back() -> None:
    levels = torch.randint(-1, 2, (50, 3 * GROUP - 2), generator=torch.Generator().manual_seed(2)).float()
    scale = torch.tensor([0.5, 2.0, 1e-20]).repeat_interleave(GROUP)[: 3 * GROUP - 2]
    found = decoded(encoded(levels * scale), 3 * GROUP - 2)
    assert torch.allclose(found, levels * scale, rtol=2**-8, atol=0)


def test_what_is_lost_is_made_up_for_until_only_rounding_is_left() -> None:
    """Error feedback: an input that stays the same is reached as near as its own numbers are rounded."""
    x, held = seeded(3, 64, 160, dtype=torch.float32), torch.zeros(64, 160)
    errors = []
    for _ in range(400):
        held = held + decoded(encoded(x - held), 160)
        errors.append(float((x - held).square().mean().sqrt()))
    assert errors == sorted(errors, reverse=True) or errors[-1] < 1e-6
    assert errors[3] < 0.15 * float(x.square().mean().sqrt())
    assert errors[-1] < 1e-6


@torch.inference_mode()
def _exchanged(
    width: int, height: int, batch: int, repeats: int
) -> tuple[list[int], int, list[str], list[torch.Tensor]]:
    """Bytes sent by each evaluation, what is kept, digests of each rank's tensors as they are held here, outputs."""
    mesh = on_ranks.mesh()
    unet = SplitUNet(networks.unet(torch.float32), exchange=Exchanged.RESIDUAL)
    unet.begin(conditions_of(batch), mesh.patch, height // 8, width // 8)
    sent, before, outputs = [], mesh.traffic.sent_bytes, []
    for number, evaluation in enumerate([EXACT, BASE, *[RESIDUAL] * repeats]):
        moved = 0.05 if number > 1 else 0.0
        outputs.append(unet(latent(width, height, batch) * (1 + moved), TIME, evaluation))
        sent.append(mesh.traffic.sent_bytes - before)
        before = mesh.traffic.sent_bytes
    kept = unet.shapes.buffer_bytes
    held = dict[int, list[torch.Tensor]]()
    for own, others in unet._context.residuals._sites.values():
        held.setdefault(mesh.patch.index, []).extend(own)
        for place, peer in enumerate(mesh.patch.others):
            held.setdefault(peer, []).extend(others[2 * place : 2 * place + 2])
    digests = [
        hashlib.sha256(b"".join(one.numpy().tobytes() for one in held[place])).hexdigest() for place in sorted(held)
    ]
    unet.remove()
    return sent, kept, digests, outputs


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("width", "height", "batch"), [(256, 256, 2), (304, 208, 1)])
def test_bytes_are_those_of_the_formula_and_both_ends_hold_the_same_bits(
    ranks: Callable[[int], Ranks], width: int, height: int, batch: int, count: int
) -> None:
    network = networks.unet(torch.float32)
    patches = patches_of(network, height // 8, width // 8, count)
    answers = ranks(count).run(_exchanged, width, height, batch, 2)
    assert len({tuple(digests) for _, _, digests, _ in answers}) == 1
    for index, (sent, kept, _, _) in enumerate(answers):
        formula = traffic.of_unet(network, patches, index, batch=batch, element_bytes=4)
        assert sent == [formula.sent, formula.sent, *[formula.sent_residual] * 2]
        assert kept == formula.kept_residual


def test_an_input_that_stays_the_same_becomes_the_exact_one(ranks: Callable[[int], Ranks]) -> None:
    answers = ranks(2).run(_exchanged, 128, 96, 1, 24)
    wanted = ranks(2).run(_exact, 128, 96, 1)
    away = [
        max(float((outputs[step] - own).abs().max()) for (*_, outputs), own in zip(answers, wanted, strict=True))
        for step in (2, 6, 25)
    ]
    assert away[2] < 0.1 * away[0]
    assert away[2] < away[1] < away[0]


@torch.inference_mode()
def _exact(width: int, height: int, batch: int) -> torch.Tensor:
    unet = SplitUNet(networks.unet(torch.float32))
    unet.begin(conditions_of(batch), on_ranks.mesh().patch, height // 8, width // 8)
    found = unet(latent(width, height, batch) * 1.05, TIME, EXACT)
    unet.remove()
    return found


@pytest.mark.parametrize("pixels", [1024, 2048])
def test_keys_and_values_of_sdxl_are_at_least_eight_times_fewer_bytes_in_half_precision(pixels: int) -> None:
    with torch.device("meta"):
        network = sdxl_unet()
    patches = patches_of(network, pixels // 8, pixels // 8, 4)
    found = traffic.of_unet(network, patches, 1, batch=2, element_bytes=2)
    others = found.sent - _keys_and_values(network, patches)
    assert (found.sent - others) / (found.sent_residual - others) >= 8


def _keys_and_values(network: torch.nn.Module, patches: object) -> int:
    widths = [
        (site, module.inner_kv_dim)
        for site, module in network.named_modules()
        if type(module).__name__ == "Attention" and not module.is_cross_attention
    ]
    from distri.layers.resolution import halvings_of

    return sum(
        2 * 3 * 2 * patches.at(halvings_of(network, site)).tokens[1] * width * 2  # type: ignore[attr-defined]
        for site, width in widths
    )


def test_a_picture_is_near_the_exact_one_whatever_was_rendered_before(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    image = ImageSpec("a photo of a cat", "blurry", seed=7, width=96, height=64, steps=6, guidance_scale=5.0)
    other = replace(image, seed=8)
    exact, residual, displaced = (
        ranks(2).run(on_ranks.render, model_dir, "1x1x2", settings, images)[0]
        for settings, images in (
            (EngineSettings(exact=True), [image]),
            (EngineSettings(warmup=2, exchange=Exchanged.RESIDUAL), [image, other, image]),
            (EngineSettings(warmup=2), [image]),
        )
    )
    first, _, again = residual
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.evaluations.synchronous, first.evaluations.displaced) == (2, 4)
    off = [float(np.abs(one.pixels.astype(int) - exact[0].pixels).mean()) for one in (first, displaced[0])]
    assert off[0] < off[1]
