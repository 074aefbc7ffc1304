"""The split UNet against plain diffusers, in float64, at sizes that divide by nothing but 8 pixels."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from benchmarks.engine.networks import sdxl_unet
from distri.layers.conditions import Conditions
from distri.layers.resolution import nearest_output
from distri.layers.unet import SplitUNet
from distri.ranks.errors import Unsplittable
from distri.ranks.kept_shapes import KeptShapes
from distri.ranks.mesh import Mesh
from distri.ranks.phase import EXACT, Evaluation, NormMode, Phase
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
LAST_WAITING = Evaluation(Phase.SYNCHRONOUS, publish=True)
DISPLACED = Evaluation(Phase.DISPLACED, publish=True)
SETTLING = Evaluation(Phase.DISPLACED, publish=True, rest=EXACT)  # keys and values alone
SETTLED = replace(SETTLING, rest=LAST_WAITING)  # the last of those
TIME = torch.tensor(501.25, dtype=torch.float64)
SIZES = [(16, 16), (27, 41), (33, 20), (26, 19), (13, 30)]


def _conditions(batch: int, seed: int = 5) -> Conditions:
    return Conditions(
        seeded(seed, batch, networks.TEXT_TOKENS, networks.TEXT_WIDTH),
        seeded(seed + 1, batch, networks.POOLED_WIDTH),
        torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 48.0]] * batch, dtype=torch.float64),
    )


def _plain(latent: Tensor, conditions: Conditions) -> Tensor:
    added = {"text_embeds": conditions.pooled, "time_ids": conditions.time_ids}
    network = networks.unet()
    predicted: Tensor
    [predicted] = network(
        latent, TIME, encoder_hidden_states=conditions.text, added_cond_kwargs=added, return_dict=False
    )
    return predicted


def _latent(change: int, batch: int, height: int, width: int) -> Tensor:
    """One latent, changed a little as a step of the sampler changes it."""
    return seeded(9, batch, 4, height, width) + 0.05 * change * seeded(10, batch, 4, height, width)


Step = tuple[int, int, int, int, Evaluation]  # batch, height, width, change, phase


def _run(
    plan: list[Step],
    mode: NormMode = NormMode.CORRECTED,
    kept_bytes: int = 1 << 30,
) -> tuple[list[Tensor], list[int]]:
    """Outputs of one split network, an image begun whenever the shape changes, and its buffers after each step."""
    mesh = on_ranks.mesh()
    unet = SplitUNet(networks.unet(), norm_mode=mode, shapes=KeptShapes(kept_bytes))
    outputs, buffers, shape = [], [], None
    for batch, height, width, change, evaluation in plan:
        if shape != (batch, height, width):
            unet.begin(_conditions(batch), mesh.patch, height, width)
            shape = (batch, height, width)
        outputs.append(unet(_latent(change, batch, height, width), TIME, evaluation))
        buffers.append(unet.shapes.buffer_bytes)
    unet.remove()
    return outputs, buffers


def _joined(answers: list[tuple[list[Tensor], list[int]]], step: int, wanted: Tensor) -> float:
    dim = 3 if wanted.shape[3] > wanted.shape[2] else 2
    return relative(torch.cat([outputs[step] for outputs, _ in answers], dim=dim), wanted)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_exact_evaluations_are_those_of_the_plain_network(ranks: GetRanks, count: int) -> None:
    plan = [(batch, height, width, 1, EXACT) for batch in (1, 2) for height, width in SIZES]
    answers = ranks(count).run(_run, plan)
    for step, (batch, height, width, change, _) in enumerate(plan):
        wanted = _plain(_latent(change, batch, height, width), _conditions(batch))
        assert _joined(answers, step, wanted) < 1e-11


@pytest.mark.parametrize("mode", list(NormMode))
@pytest.mark.parametrize("count", [2, 3])
def test_displaced_evaluations_of_unchanged_input_are_exact(ranks: GetRanks, count: int, mode: NormMode) -> None:
    plan = [(2, 27, 41, 0, phase) for phase in (EXACT, LAST_WAITING, DISPLACED, DISPLACED, LAST_WAITING, DISPLACED)]
    answers = ranks(count).run(_run, plan, mode)
    wanted = _plain(_latent(0, 2, 27, 41), _conditions(2))
    for step, (*_, evaluation) in enumerate(plan):
        local = mode is NormMode.LOCAL and evaluation.phase is Phase.DISPLACED
        error = _joined(answers, step, wanted)
        assert (error > 1e-3) if local else (error < 1e-11)


def test_a_displaced_evaluation_of_new_input_is_near_but_not_exact(ranks: GetRanks) -> None:
    plan = [(1, 27, 41, 0, LAST_WAITING), (1, 27, 41, 1, DISPLACED), (1, 27, 41, 1, DISPLACED)]
    answers = ranks(2).run(_run, plan)
    wanted = _plain(_latent(1, 1, 27, 41), _conditions(1))
    first, second = _joined(answers, 1, wanted), _joined(answers, 2, wanted)
    assert 1e-6 < first < 0.1
    assert second < first


@pytest.mark.parametrize("count", [2, 3])
def test_with_keys_and_values_alone_displaced_evaluations_are_nearer(ranks: GetRanks, count: int) -> None:
    """Exact of unchanged input, and of new input nearer than where all is displaced."""
    begun = replace(LAST_WAITING, rest=EXACT)
    same = [(2, 27, 41, 0, phase) for phase in (begun, SETTLING, SETTLED, DISPLACED, LAST_WAITING, DISPLACED)]
    run = ranks(count).run
    alone = run(_run, same)
    wanted = _plain(_latent(0, 2, 27, 41), _conditions(2))
    assert all(_joined(alone, step, wanted) < 1e-11 for step in range(len(same)))
    alone, displaced = (
        run(_run, [(1, 27, 41, change, phase) for change, phase in enumerate(phases)])
        for phases in ((begun, SETTLING, SETTLED, DISPLACED), (LAST_WAITING, DISPLACED, DISPLACED, DISPLACED))
    )
    for step in (1, 2):
        wanted = _plain(_latent(step, 1, 27, 41), _conditions(1))
        assert 1e-9 < _joined(alone, step, wanted) < 0.5 * _joined(displaced, step, wanted)
    # What an evaluation after them reads is that of the one before, whoever published it.
    for one, other in zip(alone, displaced, strict=True):
        assert relative(one[0][3], other[0][3]) < 0.05


def test_the_transformer_nearest_the_output_is_the_last_of_the_last_block_that_has_one() -> None:
    with torch.device("meta"):
        assert nearest_output(sdxl_unet()) == "up_blocks.1.attentions.2."
    assert nearest_output(networks.controlnet(torch.float32)) == ""


def _side_by_side(batch: int) -> list[tuple[Tensor, Tensor, int, int]]:
    """This rank's part and the bytes of buffers in each phase, keys and values joined and side by side."""
    mesh = on_ranks.mesh()
    joined, beside = SplitUNet(networks.unet()), SplitUNet(networks.unet())
    beside._context.side_by_side = True
    answers = []
    for height, width in ((27, 20), (16, 41)):
        for unet in (joined, beside):
            unet.begin(_conditions(batch), mesh.patch, height, width)
        for change, evaluation in enumerate((EXACT, LAST_WAITING, DISPLACED, DISPLACED, LAST_WAITING, DISPLACED)):
            latent = _latent(change, batch, height, width)
            parts = [unet(latent, TIME, evaluation).clone() for unet in (joined, beside)]
            buffers = [unet._context.exchange.buffer_bytes for unet in (joined, beside)]
            answers.append((parts[0], parts[1], buffers[0], buffers[1]))
    for unet in (joined, beside):
        unet.remove()
    return answers


@pytest.mark.parametrize(("count", "batch"), [(2, 1), (3, 2)])
@torch.no_grad()
def test_keys_and_values_side_by_side_give_the_same_in_every_phase(ranks: GetRanks, count: int, batch: int) -> None:
    """Sites of equal tokens share a buffer, and a message a peer, which leaves from where it is read."""
    for answers in ranks(count).run(_side_by_side, batch):
        for wanted, found, buffers, beside in answers:
            assert relative(found, wanted) < 1e-12
            assert beside <= buffers


def test_buffers_are_made_once_per_shape_and_dropped_when_long_unused(ranks: GetRanks) -> None:
    def phases(height: int) -> list[Step]:
        return [(1, height, 16, 0, phase) for phase in (EXACT, LAST_WAITING, DISPLACED)]

    plan = [*phases(16), *phases(32), *phases(16), *phases(48), *phases(16)]
    # Room for the first and the third shape, or the first and the second, but not for all.
    _, buffers = ranks(2).run(_run, plan, NormMode.CORRECTED, 1_000_000)[0]
    first, second, third = buffers[2], buffers[5] - buffers[2], buffers[11] - buffers[2]
    assert buffers[0] == 0
    assert 0 < first < second < third
    assert buffers[:3] == [0, first, first]
    assert buffers[3:6] == [first, first + second, first + second]
    assert buffers[6:9] == [first + second] * 3
    assert buffers[9:12] == [first + second, first + third, first + third]
    assert buffers[12:15] == [first + third] * 3


def test_one_rank_is_the_plain_network_bit_for_bit() -> None:
    network = networks.unet(torch.float32)
    conditions = _conditions(2)
    single = Conditions(conditions.text.float(), conditions.pooled.float(), conditions.time_ids.float())
    latent = seeded(9, 2, 4, 27, 41, dtype=torch.float32)
    added = {"text_embeds": single.pooled, "time_ids": single.time_ids}

    def plain() -> Tensor:
        predicted: Tensor
        [predicted] = network(
            latent, TIME, encoder_hidden_states=single.text, added_cond_kwargs=added, return_dict=False
        )
        return predicted

    wanted = plain()
    weights = {name: parameter.data_ptr() for name, parameter in network.named_parameters()}
    unet = SplitUNet(network)
    unet.begin(single, Mesh.single().patch, 27, 41)
    assert torch.equal(unet(latent, TIME, EXACT), wanted)
    assert {name: parameter.data_ptr() for name, parameter in network.named_parameters()} == weights
    unet.remove()
    assert torch.equal(plain(), wanted)
    assert not any("forward" in module.__dict__ for module in network.modules())


def test_the_text_of_one_image_does_not_reach_the_next() -> None:
    unet = SplitUNet(networks.unet())
    latent = seeded(9, 1, 4, 16, 16)
    outputs = []
    for seed in (5, 50, 5):
        unet.begin(_conditions(1, seed), Mesh.single().patch, 16, 16)
        outputs.append(unet(latent, TIME, EXACT))
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_an_unknown_module_is_refused_by_name_and_nothing_is_changed() -> None:
    network = networks.unet()
    network.mid_block.resnets[0].conv2 = nn.ConvTranspose2d(24, 24, 3)
    with pytest.raises(Unsplittable, match=r"mid_block\.resnets\.0\.conv2 \(ConvTranspose2d\)"):
        SplitUNet(network)
    assert not any("forward" in module.__dict__ for module in network.modules())


def test_a_known_module_with_an_unknown_setting_is_refused_by_name() -> None:
    network = networks.unet()
    network.conv_in = nn.Conv2d(4, 8, 5, padding=2)
    with pytest.raises(Unsplittable, match="conv_in"):
        SplitUNet(network)


def test_what_looks_at_the_whole_image_or_computes_otherwise_is_refused_by_name() -> None:
    network = networks.unet()
    network.enable_freeu(s1=0.6, s2=0.4, b1=1.1, b2=1.2)
    with pytest.raises(Unsplittable, match=r"up_blocks\.0 .*FreeU"):
        SplitUNet(network)
    network.disable_freeu()

    class Own:
        """A processor that nobody knows."""

    network.mid_block.attentions[0].transformer_blocks[0].attn1.processor = Own()
    with pytest.raises(Unsplittable, match=r"mid_block.*attn1.*its processor is Own"):
        SplitUNet(network)
    network.set_attn_processor(AttnProcessor())
    SplitUNet(network).remove()
    network.register_to_config(downsample_padding=0)
    with pytest.raises(Unsplittable, match="downsample_padding is 0"):
        SplitUNet(network)


def test_a_class_that_has_only_its_name_from_torch_is_refused() -> None:
    kind = type("Conv2d", (nn.Module,), {})
    network = networks.unet()
    network.conv_out = kind()
    with pytest.raises(Unsplittable, match=r"conv_out \(Conv2d\).*fuse adapters"):
        SplitUNet(network)


def test_a_network_is_not_split_twice() -> None:
    network = networks.unet()
    SplitUNet(network)
    with pytest.raises(Unsplittable, match="replaced already"):
        SplitUNet(network)
