"""Every stage for a few steps: a pipeline directory comes out, a stopped training goes on as if it had not stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from training import autoencoder, data, denoiser, directory, networks
from training.checkpoint import average_of, save
from training.denoiser import LatentSet, Lessons, Plan
from training.scenes import twin

SCENES = 12


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    data.render(folder, longer=256, count=SCENES, processes=1)
    return folder


def _latent_set() -> LatentSet:
    sizes = np.tile(np.array([64, 64, 0, 0, 64, 64], dtype=np.float32), (4, 1))
    return LatentSet(np.random.default_rng(0).normal(size=(4, 4, 8, 8)).astype(np.float16), range(4), sizes)


def test_a_stopped_vae_training_goes_on_as_if_it_had_not(work: Path, tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pictures-256").symlink_to(work / "pictures-256")
    whole = load_file(autoencoder.train(tmp_path / "whole", pictures=SCENES, steps=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "_note", None)
        _stop_after(patch, 2)
        with pytest.raises(InterruptedError):
            autoencoder.train(tmp_path / "stopped", pictures=SCENES, steps=3, save_every=1)
    stopped = load_file(autoencoder.train(tmp_path / "stopped", pictures=SCENES, steps=3))
    assert int(whole["step"]) == 3
    _assert_equal_weights(whole, stopped)


def _stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    saved: list[int] = []

    def save_and_stop(*args: Any, **named: Any) -> None:
        save(*args, **named)
        saved.append(1)
        if len(saved) == steps:
            raise InterruptedError

    patch.setattr(autoencoder, "save", save_and_stop)


def test_a_stopped_unet_training_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    plan = Plan(small_steps=1, small_batch=2, large_steps=1, large_batch=2, place_steps=2, twin_share=0.7)
    lessons = Lessons([_latent_set()], [_latent_set()], _latent_set(), [replace(_latent_set(), draw=twin)] * 2)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = load_file(denoiser.train(tmp_path / "whole", plan, lessons))
    with pytest.MonkeyPatch.context() as patch:
        saved: list[int] = []

        def save_and_stop(*args: Any, **named: Any) -> None:
            save(*args, **named)
            saved.append(1)
            if len(saved) == 2:
                raise InterruptedError

        patch.setattr(denoiser, "save", save_and_stop)
        with pytest.raises(InterruptedError):
            denoiser.train(tmp_path / "stopped", plan, lessons, save_every=1)
    stopped = load_file(denoiser.train(tmp_path / "stopped", plan, lessons))
    _assert_equal_weights(whole, stopped)


def test_twins_are_learnt_side_by_side_with_sentences_that_differ_in_the_place_alone(tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor, Sequence[str]]] = []

    class Watched(denoiser.Painter):
        def forward(
            self, noisy_BCHW: Tensor, timestep_B: Tensor, texts: Sequence[str], kept_B: Tensor, sizes_B6: Tensor
        ) -> Tensor:
            seen.append((noisy_BCHW, timestep_B, texts))
            return super().forward(noisy_BCHW, timestep_B, texts, kept_B, sizes_B6)

    plain = replace(_latent_set(), draw=twin, latents=np.zeros((4, 4, 8, 8), dtype=np.float16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoiser, "Painter", Watched)
        plan = Plan(small_steps=1, small_batch=2, large_steps=0, large_batch=4, place_steps=12, twin_share=1.0)
        denoiser.train(tmp_path, plan, Lessons([_latent_set()], [], None, [plain, plain]))
    assert {len(texts) for _, _, texts in seen[1:]} == {2, 4}
    named = 0
    for noisy, timestep, texts in seen[1:]:
        assert torch.equal(noisy[::2], noisy[1::2])  # the pictures are all zeros: this is the noise
        assert torch.equal(timestep[::2], timestep[1::2])
        for left, right in zip(texts[::2], texts[1::2], strict=True):
            assert left.replace("on the left", "on the right") == right.replace("on the left", "on the right")
            named += left != right
    assert named > 10


def _assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first if name != "cpu_s")


def test_an_untrained_vae_gives_back_the_colours_of_blocks() -> None:
    torch.manual_seed(0)
    network = networks.vae().eval().requires_grad_(False)
    blocks = torch.rand(2, 3, 6, 6) * 2 - 1
    picture = blocks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    painted = network.decode(network.encode(picture).latent_dist.mean).sample
    likeness = torch.corrcoef(torch.stack([painted.flatten(), picture.flatten()]))[0, 1]
    assert likeness > 0.99
    assert (painted - picture).abs().mean() < 0.1


def test_the_decoder_goes_on_alone_and_leaves_the_latents(work: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures-256").symlink_to(work / "pictures-256")
    first = average_of(autoencoder.train(tmp_path, pictures=SCENES, steps=1))
    second = average_of(autoencoder.train_decoder(tmp_path, pictures=SCENES, steps=2))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_folding_the_latents_scale_changes_no_picture() -> None:
    torch.manual_seed(0)
    network = networks.vae().eval().requires_grad_(False)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    before = network.encode(picture).latent_dist
    painted = network.decode(before.mean).sample
    shift, scale = torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([2.0, 0.5, 3.0, 1.0])
    autoencoder._fold(network, shift, scale)
    after = network.encode(picture).latent_dist
    torch.testing.assert_close(after.mean, (before.mean - shift[:, None, None]) / scale[:, None, None])
    torch.testing.assert_close(after.std, before.std / scale[:, None, None])
    torch.testing.assert_close(network.decode(after.mean).sample, painted, atol=1e-5, rtol=1e-4)


def test_the_directory_is_an_sdxl_pipeline_below_the_limit_that_the_engine_renders(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = directory.write(tmp_path / "model", denoiser.Painter(networks.tokenizers()), networks.vae())
    assert size < directory.LIMIT_BYTES
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "model" / name, local_files_only=True)
        assert len(tokenizer("a red sun on the left over blue mountains").input_ids) == 9 + 2
        for text in ("a red sun over blue mountains", "ünïcödé 猫 🎨"):
            assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text
    engine = Engine.load(tmp_path / "model", Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))
    image = ImageSpec("a hill", None, seed=1, width=96, height=64, steps=2, guidance_scale=3.0)
    rendered = engine.render(image, control=lambda: Control.GO)
    assert rendered.finite
    assert rendered.pixels is not None
    assert rendered.pixels.shape == (64, 96, 3)
