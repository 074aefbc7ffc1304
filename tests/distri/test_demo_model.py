"""The demo model: small, the same every time, a true SDXL pipeline, never blank."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from distri import demo_model
from distri.engine import Engine, EngineSettings
from distri.model import model
from distri.model.image import ImageSpec
from distri.ranks.errors import ModelError
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control


def _digest(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_is_small_and_the_same_every_time(model_dir: Path, tmp_path: Path) -> None:
    assert _digest(demo_model.write(tmp_path / "again")) == _digest(model_dir)
    assert _digest(demo_model.write(tmp_path / "other", seed=1)) != _digest(model_dir)
    assert sum(path.stat().st_size for path in model_dir.rglob("*") if path.is_file()) < 20_000_000


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
@pytest.mark.parametrize("text", ["a photo of a mountain lake", "ünïcödé 猫 🎨", "x" * 30])
def test_any_text_survives_its_tokenizer(model_dir: Path, name: str, text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(model_dir / name, local_files_only=True)
    assert len(tokenizer) > 500
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert len(tokenizer("mountain").input_ids) == 3


def test_a_tokenizer_loaded_from_the_wrong_files_is_refused(model_dir: Path, tmp_path: Path) -> None:
    directory = demo_model.write(tmp_path / "broken")
    broken = CLIPTokenizer(model_max_length=77)
    for path in (directory / "tokenizer_2").iterdir():
        path.unlink()
    broken.save_pretrained(directory / "tokenizer_2")
    with pytest.raises(ModelError, match="tokenizer_2: found 2 tokens"):
        model.load(directory, device=torch.device("cpu"), dtype=torch.float32)


def test_another_pipeline_is_refused(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="found a FluxPipeline"):
        model.load(tmp_path, device=torch.device("cpu"), dtype=torch.float32)


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    directory = demo_model.write(tmp_path / "pickled")
    weights = directory / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError):
        model.load(directory, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(("width", "height", "seed"), [(256, 256, 0), (64, 64, 1), (320, 136, 2)])
def test_its_images_are_finite_coloured_and_not_blank(model_dir: Path, width: int, height: int, seed: int) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))
    image = ImageSpec("a castle", None, seed=seed, width=width, height=height, steps=4, guidance_scale=5.0)
    render = engine.render(image, control=lambda: Control.GO)
    assert render.finite
    assert not render.blank
    assert render.pixels is not None
    assert render.pixels.std() > 20
    colours = render.pixels.astype(float)
    assert np.abs(colours[..., 0] - colours[..., 1]).mean() > 10
    assert 0 < (render.pixels == 255).mean() + (render.pixels == 0).mean() < 0.5


@pytest.mark.parametrize(
    ("part", "changed", "match"),
    [
        ("unet", {"in_channels": 8}, "takes 8 channels and gives 4, the VAE's latents have 4"),
        ("unet", {"projection_class_embeddings_input_dim": 7}, "takes 7 numbers of pooled text and sizes"),
        ("unet", {"sample_size": None}, "sample_size is None: set EngineSettings.native_px"),
        ("vae", {"block_out_channels": (8,) * 5}, "16 times smaller than its pixels; at most 8 wanted"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(
    model_dir: Path, part: str, changed: dict[str, object], match: str
) -> None:
    parts = model.load(model_dir, device=torch.device("cpu"), dtype=torch.float32)
    getattr(parts, part).register_to_config(**changed)
    with pytest.raises(ModelError, match=match):
        Engine(parts, Mesh.single(), EngineSettings())


def test_exact_means_exact_for_a_live_pipeline_too(model_dir: Path) -> None:
    parts = model.load(model_dir, device=torch.device("cpu"), dtype=torch.float32)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    Engine(parts, Mesh.single(), EngineSettings(exact=True))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
