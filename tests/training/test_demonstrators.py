"""What is trained beside the demo model: read by the product, the same after a stop, obeyed by pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distri.model.reference.image_encoder import ImageEncoder
from distri.model.reference.ip_adapter import IPAdapter, load_adapter
from training import controlnet, frozen, ip_adapter, loop, obeyed, traits
from training.checkpoint import save
from training.denoiser import LatentSet, Painter
from training.loop import Plan
from training.paint import painted
from training.scenes import drawn

MODELS = Path(__file__).parents[2] / "models"
CPU: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def teacher() -> Painter:
    return frozen.painter(MODELS / "demo")


def _latents(side: int = 64) -> LatentSet:
    sizes = np.tile(np.array([side, side, 0, 0, side, side], dtype=np.float32), (4, 1))
    shape = (4, 4, side // 8, side // 8)
    return LatentSet(np.random.default_rng(0).normal(size=shape).astype(np.float16), range(4), sizes)


def _edges() -> controlnet.Edges:
    found = [obeyed.edges_of(painted(drawn(seed), 64, 64)) for seed in range(4)]
    return controlnet.Edges(_latents(), np.packbits(np.stack(found), axis=2))


def test_edges_are_kept_as_they_were_found() -> None:
    shown = _edges().picture([2, 0])
    assert shown.shape == (2, 3, 64, 64)
    assert np.array_equal(shown[0, 1].numpy() > 0, obeyed.edges_of(painted(drawn(2), 64, 64)))


def test_a_network_adds_nothing_before_it_has_learnt_and_something_after(teacher: Painter, tmp_path: Path) -> None:
    network = controlnet.begun(teacher.unet).eval()
    added = {"text_embeds": torch.zeros(1, 128), "time_ids": torch.full((1, 6), 64.0)}
    given = (torch.randn(1, 4, 8, 8), torch.tensor(500), torch.zeros(1, 77, 192), _edges().picture([0]))
    down, middle = network(*given, added_cond_kwargs=added, return_dict=False)
    assert not any(bool(one.any()) for one in (*down, middle))
    plan = Plan(small_steps=1, small_batch=2, large_steps=1, large_batch=2)
    controlnet.train(tmp_path, teacher, plan, [_edges()], [_edges()])
    down, middle = controlnet.trained(tmp_path, teacher)(*given, added_cond_kwargs=added, return_dict=False)
    assert all(bool(one.any()) for one in (*down, middle))


def test_a_stopped_training_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learnt(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1)
        path = tmp_path / name / "line.safetensors"
        path.parent.mkdir(exist_ok=True)
        groups: list[loop.Group] = [
            (rate, [weight]) for rate, weight in zip((1e-2, 1e-1), network.parameters(), strict=True)
        ]
        return load_file(
            loop.learn(path, network, groups, lambda _, lot: network(torch.ones(3) * lot.random()).square().mean(),
                       steps=6, save_every=2)
        )  # fmt: skip

    whole = learnt("whole")

    def save_and_stop(*args: Any, **named: Any) -> None:
        save(*args, **named)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", save_and_stop)
        with pytest.raises(InterruptedError):
            learnt("stopped")
    stopped = learnt("stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole if name != "cpu_s")


def test_the_engine_reads_an_adapter_layer_by_layer(teacher: Painter, tmp_path: Path) -> None:
    plain = frozen.painter(MODELS / "demo").unet
    adapter = ip_adapter.Adapter(frozen.painter(MODELS / "demo").unet, traits.encoder()).eval().requires_grad_(False)
    for layer in adapter.layers:
        torch.nn.init.normal_(layer.to_k_ip[0].weight)  # type: ignore[union-attr, index]
    adapter.encoder.save_pretrained(tmp_path / "image_encoder")
    save_file({name: one.contiguous() for name, one in adapter.tensors().items()}, tmp_path / "ip-adapter.safetensors")
    found = load_adapter(IPAdapter(tmp_path / "ip-adapter.safetensors", tmp_path / "image_encoder"), plain, **CPU)
    assert found.tokens == ip_adapter.TOKENS
    picture = painted(drawn(1), 128, 128)
    embedded = ImageEncoder(tmp_path / "image_encoder", **CPU).embed(picture, hidden=False)
    own = adapter.tokens(traits.seen(picture[None]), torch.ones(1))
    torch.testing.assert_close(found.projection(embedded), own)
    for layer, (keys, values) in zip(adapter.layers, found.projections.values(), strict=True):
        assert torch.equal(keys, layer.to_k_ip[0].weight)  # type: ignore[union-attr, index]
        assert torch.equal(values, layer.to_v_ip[0].weight)  # type: ignore[union-attr, index]


def test_an_adapter_learns_what_its_pictures_show(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file({f"average.encoder.{name}": one for name, one in traits.encoder().state_dict().items()},
              tmp_path / "traits.safetensors")  # fmt: skip
    teacher = frozen.painter(MODELS / "demo")
    shown = ip_adapter.Shown(_latents(), np.stack([painted(drawn(seed), 64, 64) for seed in range(4)]))
    ip_adapter.train(tmp_path, teacher, Plan(1, 2, 1, 2), [shown], [shown])
    before = dict(frozen.painter(MODELS / "demo").unet.named_parameters())
    after = ip_adapter.trained(tmp_path, frozen.painter(MODELS / "demo"))
    first: Any = after.layers[0]
    was = before["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert not torch.equal(first.to_k_ip[0].weight, was)
    assert all(torch.equal(one, before[name]) for name, one in teacher.unet.named_parameters() if name in before)


def test_words_of_a_scene_are_all_known() -> None:
    scenes = [drawn(seed) for seed in range(40)]
    network = traits.Namer(scenes)
    numbers = network.numbers(scenes)
    assert numbers.shape == (40, len(network.heads))
    values = traits.seen([painted(scenes[0], 96, 64)])
    assert [scores.shape[1] for scores in network(values)] == [len(known) for known in network.known]


def test_agreement_is_high_with_a_pictures_own_edges_and_low_with_anothers() -> None:
    pictures = [painted(drawn(seed), 128, 128) for seed in (1, 2, 3, 4)]
    edges = [obeyed.edges_of(one) for one in pictures]
    own = [obeyed.agreement(*pair) for pair in zip(pictures, edges, strict=True)]
    others = [obeyed.agreement(*pair) for pair in zip(pictures, edges[1:] + edges[:1], strict=True)]
    assert min(own) > 0.7
    assert max(others) < 0.6
    flat = np.full((128, 128, 3), 90, np.uint8)
    assert obeyed.agreement(flat, edges[0]) == 0
    assert obeyed.agreement(pictures[0], np.zeros((128, 128), bool)) == 0
