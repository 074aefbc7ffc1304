"""Which kernels are used, and networks that use them, in Triton's interpreter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from structlog.testing import capture_logs
from torch import Tensor, nn
from torch.nn import functional

from distri.layers.conditions import Conditions
from distri.layers.kernels import fused, gating
from distri.layers.kernels.fused import FusedKernels
from distri.layers.unet import SplitUNet
from distri.layers.vae import SplitVAE
from distri.ranks import recording
from distri.ranks.mesh import Mesh
from distri.ranks.phase import EXACT, Evaluation, Phase
from distri.ranks.spans import Spans
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks


class Gate:
    """The gate of a feed-forward network; counts how often it was computed by the plain layers."""

    def __init__(self) -> None:
        self.spans = Spans()
        self.kernels = FusedKernels(self.spans, device_types=("cpu",))
        self.plainly = 0

    def __call__(self, x: Tensor) -> Tensor:
        def plain() -> Tensor:
            self.plainly += 1
            value, gate = x.chunk(2, dim=-1)
            return value * functional.gelu(gate)

        return self.kernels.gated(x, plain=plain)


X = seeded(1, 2, 3, 12, dtype=torch.float32)


def test_a_kernel_that_agrees_is_used_from_the_second_call_on() -> None:
    gate = Gate()
    first, second = gate(X), gate(X)
    assert gate.plainly == 1
    assert relative(second, first) < 1e-6
    [span] = gate.spans
    assert gate.kernels.start_s == span.seconds
    assert (span.name, span.track) == ("compare gate", "kernels")
    assert span.detail["difference"] < 1e-6


def test_every_class_of_shapes_and_dtypes_is_compared() -> None:
    gate = Gate()
    for x in (X, X.half(), X[:, :1], X, X.half(), X[:, :1]):
        gate(x)
    assert gate.plainly == 3


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_a_kernel_that_fails_or_differs_is_not_used_and_says_so(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x_N2C: Tensor) -> Tensor:
        if fault == "raises":
            raise RuntimeError("no such instruction")
        return x_N2C.chunk(2, dim=-1)[0].clone()

    monkeypatch.setattr(gating, "gated", wrong)
    gate = Gate()
    with capture_logs() as logs:
        found = [gate(X) for _ in range(3)]
    assert gate.plainly == 3
    assert torch.equal(found[0], found[2])
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert line["event"] == "fused kernel is not used"
    wanted = "no such instruction" if fault == "raises" else "differs from the plain layers by"
    assert wanted in line["reason"]
    [span] = gate.spans
    assert wanted in span.detail["not_used"]


def test_what_is_not_finite_decides_nothing() -> None:
    gate = Gate()
    gate(torch.full_like(X, float("nan")))
    gate(X)
    gate(X)
    assert gate.plainly == 2


def test_without_memory_to_compare_in_the_plain_layers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    gate = Gate()
    with monkeypatch.context() as patch:
        patch.setattr(gating, "gated", full)
        gate(X)
    gate(X)
    gate(X)
    assert gate.plainly == 2


def test_kernels_are_for_gpus_and_for_half_and_single_precision() -> None:
    assert not FusedKernels().takes(X)
    assert not FusedKernels(device_types=("cpu",), wanted=False).takes(X)
    assert not FusedKernels(device_types=("cpu",)).takes(X.double())
    assert FusedKernels(device_types=("cpu",)).takes(X)


def test_a_difference_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "COMPARED_AT_ONCE", 8)
    wanted = seeded(1, 2, 3, 50)
    for place in (0, 49):
        found = wanted.clone()
        found[1, 2, place] += 1
        assert fused.apart(found, wanted) == pytest.approx(float(1 / wanted.abs().max()))
    assert fused.apart(wanted, wanted) == 0


def test_moments_differ_in_deviations_and_variances() -> None:
    wanted = torch.tensor([[[1000.0, 0.0]], [[4.0, 1.0]]])
    found = torch.tensor([[[1000.0, 0.02]], [[4.0, 1.0]]])
    assert fused.moments_apart(found, wanted) == pytest.approx(0.01)
    assert fused.moments_apart(torch.tensor([[[0.0]], [[4.4]]]), torch.tensor([[[0.0]], [[4.0]]])) == pytest.approx(0.1)


TIME = torch.tensor(501.25)
PHASES = [Evaluation(Phase.SYNCHRONOUS, publish=True), *[Evaluation(Phase.DISPLACED, publish=True)] * 2]


def _tiny_unet() -> Any:
    """Two levels and one layer each: the interpreter takes milliseconds a kernel."""
    torch.manual_seed(1)
    network: Any = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2),
        cross_attention_dim=networks.TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + networks.POOLED_WIDTH,
    )
    return network.eval().requires_grad_(False)


def _evaluations(channels_last: bool) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """This rank's parts of evaluations, plainly and with kernels, and which kernels agreed."""
    mesh, answers, spans = on_ranks.mesh(), [], Spans()
    conditions = Conditions(
        seeded(5, 1, networks.TEXT_TOKENS, networks.TEXT_WIDTH, dtype=torch.float32),
        seeded(6, 1, networks.POOLED_WIDTH, dtype=torch.float32),
        torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 48.0]]),
    )
    for kernels in (FusedKernels(), FusedKernels(spans, device_types=("cpu",), channels_last=channels_last)):
        unet = SplitUNet(_tiny_unet(), kernels=kernels)
        unet.begin(conditions, mesh.patch, 8, 6)
        parts = []
        for change, evaluation in enumerate(PHASES if mesh.patch.size > 1 else [EXACT, EXACT]):
            latent = seeded(9, 1, 4, 8, 6) + 0.05 * change * seeded(10, 1, 4, 8, 6)
            parts.append(unet(latent.float(), TIME, evaluation))
        unet.remove()
        answers.append(parts)
    return answers[0], answers[1], [span.name for span in spans if "not_used" not in span.detail]


@pytest.mark.parametrize(("count", "channels_last"), [(1, False), (1, True), (2, True)])
def test_networks_with_kernels_are_the_plain_ones_in_every_phase(
    ranks: Callable[[int], Ranks], count: int, channels_last: bool
) -> None:
    for wanted, found, agreed in ranks(count).run(_evaluations, channels_last):
        names = {"moments", "norm", "norm and SiLU", "gate", "sum", "sum with two biases"}
        names |= {f"merged moments of {count}", f"corrected moments of {count}"} if count > 1 else set()
        assert {name.removeprefix("compare ") for name in agreed} == names
        for mine, plain in zip(found, wanted, strict=True):
            assert relative(mine, plain) < 1e-5


def test_a_decoder_with_kernels_is_the_plain_one() -> None:
    latent = seeded(4, 1, 4, 2, 3, dtype=torch.float32)
    wanted, _ = SplitVAE(networks.vae(torch.float32)).decode(latent, Mesh.single().replica)
    kernels = FusedKernels(device_types=("cpu",), channels_last=True)
    vae = SplitVAE(networks.vae(torch.float32), kernels=kernels)
    for _ in range(2):
        found, _ = vae.decode(latent, Mesh.single().replica)
        assert relative(found, wanted) < 1e-5


def test_the_silu_after_the_last_norm_is_the_norms_until_the_layers_are_removed() -> None:
    network = networks.unet(torch.float32)
    before = network.conv_act(X)
    split = SplitUNet(network)
    assert torch.equal(network.conv_act(X), X)
    split.remove()
    assert torch.equal(network.conv_act(X), before)
    assert type(network.conv_act) is nn.SiLU
