"""Networks laid channels last against the same ones laid as they are loaded, in float64, on ranks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distri.layers.conditions import Conditions
from distri.layers.kernels.fused import FusedKernels
from distri.layers.unet import SplitUNet
from distri.layers.vae import SplitVAE
from distri.ranks.mesh import Mesh
from distri.ranks.phase import EXACT, Evaluation, Phase
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

TIME = torch.tensor(501.25, dtype=torch.float64)
PHASES = [EXACT, Evaluation(Phase.SYNCHRONOUS, publish=True), Evaluation(Phase.DISPLACED, publish=True)]
SIZES = [(27, 20), (20, 41), (72, 8)]  # rows, columns, and convolutions that compute their borders apart


def conditions(batch: int) -> Conditions:
    text = seeded(5, batch, networks.TEXT_TOKENS, networks.TEXT_WIDTH)
    time_ids = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 48.0]] * batch, dtype=torch.float64)
    return Conditions(text, seeded(6, batch, networks.POOLED_WIDTH), time_ids)


def _run(batch: int) -> list[tuple[Tensor, Tensor]]:
    """This rank's parts of evaluations, decodes and encodes, laid as loaded and laid channels last."""
    mesh, found = on_ranks.mesh(), []
    for last in (False, True):
        kernels = FusedKernels(channels_last=last)
        unet, vae = SplitUNet(networks.unet(), kernels=kernels), SplitVAE(networks.vae(), kernels=kernels)
        parts = []
        for height, width in SIZES:
            unet.begin(conditions(batch), mesh.patch, height, width)
            for change, evaluation in enumerate(PHASES):
                latent = seeded(9, batch, 4, height, width) + 0.05 * change * seeded(10, batch, 4, height, width)
                parts.append(unet(latent, TIME, evaluation))
            unet.end()
            parts.append(vae.decode(seeded(4, batch, 4, height // 4, width), mesh.replica)[0])
            parts.append(vae.encode(seeded(4, batch, 3, 2 * height // 8 * 8, 40), mesh.replica)[0])
        unet.remove()
        vae.remove()
        found.append(parts)
    return list(zip(*found, strict=True))


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (3, 2)])
def test_channels_last_gives_the_same(ranks: Callable[[int], Ranks], count: int, batch: int) -> None:
    for answers in ranks(count).run(_run, batch):
        for wanted, found in answers:
            assert found.is_contiguous()
            assert relative(found, wanted) < 1e-11


def test_weights_and_activations_lie_channels_last_until_the_layers_are_removed() -> None:
    network = networks.unet(torch.float32)
    seen: list[bool] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend(x.is_contiguous(memory_format=torch.channels_last) for x in (*inputs[:1], output))

    hooks = [
        module.register_forward_hook(look)
        for name, module in network.named_modules()
        if type(module).__name__ in ("Conv2d", "ResnetBlock2D", "GroupNorm", "Upsample2D") and "conv_out" not in name
    ]
    split = SplitUNet(network, kernels=FusedKernels(channels_last=True))
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    given = conditions(2)
    split.begin(
        Conditions(given.text.float(), given.pooled.float(), given.time_ids.float()), Mesh.single().patch, 16, 12
    )
    split(seeded(9, 2, 4, 16, 12, dtype=torch.float32), TIME, EXACT)
    assert len(seen) > 100
    assert all(seen)
    for hook in hooks:
        hook.remove()
    split.remove()
    assert network.conv_in.weight.is_contiguous()


def test_half_precision_on_a_gpu_is_laid_channels_last_and_nothing_else() -> None:
    gpu = FusedKernels(device_types=("cpu",))
    assert gpu.channels_last(torch.zeros(1, dtype=torch.float16))
    assert gpu.channels_last(torch.zeros(1, dtype=torch.bfloat16))
    assert not gpu.channels_last(torch.zeros(1))
    assert not FusedKernels().channels_last(torch.zeros(1, dtype=torch.float16))
    assert not FusedKernels(device_types=("cpu",), wanted=False).channels_last(torch.zeros(1, dtype=torch.float16))
