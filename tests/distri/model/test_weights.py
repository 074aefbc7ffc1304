"""A model gives one picture however its weights are stored."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.model import Model, load
from distri.model.weights import load_tokenizer
from distri.ranks.errors import ModelError
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from pipeline.checkpoints import clip
from pipeline.checkpoints.checkpoint import ModelFiles
from tests.checkpoints import original_tensors, single_file, weights_of

CPU = torch.device("cpu")
IMAGE = ImageSpec("a photo of a cat", None, seed=7, width=64, height=64, steps=2, guidance_scale=5.0)


def _picture(source: Path | ModelFiles) -> Any:
    engine = Engine.load(source, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))
    return engine.render(IMAGE, control=lambda: Control.GO).pixels


def _load(source: Path | ModelFiles) -> Model:
    return load(source, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module", name="wanted")
def _wanted(model_dir: Path) -> Any:
    return _picture(model_dir)


def test_a_single_file_gives_the_picture_of_its_folder(model_dir: Path, tmp_path: Path, wanted: Any) -> None:
    path = single_file(model_dir, tmp_path / "model.safetensors")
    assert np.array_equal(_picture(ModelFiles(path, config=model_dir)), wanted)


def test_a_vae_of_its_own_in_either_layout_gives_its_picture(model_dir: Path, tmp_path: Path, wanted: Any) -> None:
    parts = ("unet", "text_encoder", "text_encoder_2")
    path = single_file(model_dir, tmp_path / "model.safetensors", parts=parts)
    bare = {key.removeprefix("first_stage_model."): one for key, one in _vae_tensors(model_dir).items()}
    save_file(bare, tmp_path / "vae.safetensors")
    for vae in (tmp_path / "vae.safetensors", model_dir / "vae"):
        assert np.array_equal(_picture(ModelFiles(path, config=model_dir, vae=vae)), wanted)


def _vae_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: one.contiguous() for key, one in original_tensors("vae", *weights_of(folder, "vae")).items()}


def test_shards_and_old_names_of_a_vae_give_the_picture(model_dir: Path, tmp_path: Path, wanted: Any) -> None:
    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    (whole,) = (folder / "vae").glob("*.safetensors")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(whole).items():
        new = name
        for ours, theirs in names.items():
            new = new.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        old[new] = tensor
    save_file(old, whole)
    assert np.array_equal(_picture(folder), wanted)


def test_half_precision_files_are_computed_in_what_is_asked_for(model_dir: Path, tmp_path: Path) -> None:
    plain = _load(model_dir)
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        path = single_file(model_dir, tmp_path / "model.safetensors", dtype=dtype)
        found = _load(ModelFiles(path, config=model_dir))
        for ours, theirs in ((found.unet, plain.unet), (found.text_encoders[1], plain.text_encoders[1])):
            weights = ours.state_dict()
            for name, tensor in theirs.state_dict().items():
                assert torch.equal(weights[name], tensor.to(dtype).float()), name


def test_scaled_fp8_is_multiplied_by_its_scale(model_dir: Path, tmp_path: Path) -> None:
    site = "model.diffusion_model.input_blocks.3.0.op"
    scale = torch.tensor(0.25)

    def store(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{site}.weight"] = (tensors[f"{site}.weight"] / scale).to(torch.float8_e4m3fn)

    beside = {f"{site}.scale_weight": scale}
    path = single_file(model_dir, tmp_path / "model.safetensors", beside=beside, change=store)
    found = _load(ModelFiles(path, config=model_dir)).unet.down_blocks[0].downsamplers[0].conv.weight
    wanted = _load(model_dir).unet.down_blocks[0].downsamplers[0].conv.weight
    assert torch.equal(found, (wanted / scale).to(torch.float8_e4m3fn).float() * scale)


def test_networks_are_those_that_their_own_libraries_load(model_dir: Path) -> None:
    kind: Any = CLIPTextModelWithProjection
    theirs = kind.from_pretrained(model_dir / "text_encoder_2", dtype=torch.float32)
    ours = _load(model_dir).text_encoders[1]
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    found, wanted = ours(ids, output_hidden_states=True), theirs(ids, output_hidden_states=True)
    assert torch.equal(found.hidden_states[-2], wanted.hidden_states[-2])
    assert torch.equal(found[0], wanted[0])


def test_a_tokenizer_without_files_is_clips_own() -> None:
    first, second = load_tokenizer("tokenizer", None), load_tokenizer("tokenizer_2", None)
    assert first("a photo of a cat").input_ids == [49406, *clip.token_ids("a photo of a cat"), 49407]
    assert (first.model_max_length, first.pad_token_id, second.pad_token_id) == (77, 49407, 0)


def test_v_prediction_of_a_file_is_the_models_own_scheduler(model_dir: Path, tmp_path: Path) -> None:
    marks = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    path = single_file(model_dir, tmp_path / "model.safetensors", beside=marks)
    found = _load(ModelFiles(path, config=model_dir))
    scheduler = found.scheduler.make(None, {}, seed=0)
    assert (scheduler.config.prediction_type, scheduler.config.rescale_betas_zero_snr) == ("v_prediction", True)
    assert found.notes[0] == "v-prediction, by its key v_pred"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("scheduler/scheduler_config.json", '{"_class_name": "EulerDiscreteScheduler", "beta_schedule": "none"}'),
        ("scheduler/scheduler_config.json", '{"_class_name": "EulerDiscreteScheduler", "beta_start": "x"}'),
        ("tokenizer/tokenizer.json", '{"model": 7}'),
        ("unet/config.json", '{"act_fn": "none"}'),
    ],
)
def test_whatever_is_wrong_with_a_model_is_a_model_error(
    model_dir: Path, tmp_path: Path, file: str, content: str
) -> None:
    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    before = json.loads((folder / file).read_text()) if file.startswith("unet") else {}
    (folder / file).write_text(json.dumps(before | json.loads(content)))
    with pytest.raises(ModelError):
        _load(folder)
