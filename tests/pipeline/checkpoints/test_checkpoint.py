from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoints.checkpoint import Checkpoint, ModelFiles, open_checkpoint
from pipeline.checkpoints.kinds import Kind
from pipeline.deployment.model_check import check_model, source_of
from pipeline.deployment.seen_files import inpainting_seen
from pipeline.deployment.settings import ModelSource
from pipeline.errors import BadCheckpoint
from tests import checkpoints
from tests.checkpoints import ALL, full_size, single_file, sparse
from tests.distri import inpainting_models

DEMO = Path(__file__).parents[3] / "models" / "demo"
UNET = "model.diffusion_model."


@pytest.fixture(name="demo")
def _demo(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "demo"))


def _open(path: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(ModelFiles(path, **settings))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F8_E4M3"])
def test_a_single_file_of_full_size_is_known_by_its_header(tmp_path: Path, dtype: str) -> None:
    found = _open(full_size(tmp_path / "sdxl.safetensors", dtype=dtype))
    assert found.kind is Kind.BASE
    assert {name: len(network.tensors) for name, network in found.networks.items()} == {
        **{"unet": 1680, "vae": 248, "text_encoder": 196},
        "text_encoder_2": 517,
    }
    assert found.tokenizers == {"tokenizer": None, "tokenizer_2": None}
    assert any("fp8" in note for note in found.notes) == (dtype == "F8_E4M3")


def test_a_refiner_is_known_and_no_model_of_its_own(tmp_path: Path) -> None:
    path = full_size(tmp_path / "refiner.safetensors", Kind.REFINER)
    found = open_checkpoint(ModelFiles(path), wanted=Kind.REFINER)
    assert (found.kind, list(found.networks), found.zeros_for_none) == (
        *(Kind.REFINER, ["unet", "text_encoder_2"]),
        False,
    )
    with pytest.raises(BadCheckpoint, match="SDXL's refiner model: name it as the `refiner` of a base model"):
        open_checkpoint(ModelFiles(path), wanted=Kind.BASE)


def _mark(*names: str) -> Callable[[dict[str, tuple[int, ...]]], None]:
    return lambda shapes: shapes.update(dict.fromkeys(names, (1,)))


@pytest.mark.parametrize(
    ("marks", "metadata", "settings", "wanted"),
    [
        ((), {}, {}, ("epsilon", None)),
        (("v_pred",), {}, {}, ("v_prediction", None)),
        (("v_pred", "ztsnr"), {}, {}, ("v_prediction", True)),
        ((), {"modelspec.prediction_type": "v"}, {}, ("v_prediction", None)),
        ((), {"modelspec.prediction_type": "epsilon"}, {}, ("epsilon", None)),
        ((), {"ss_zero_terminal_snr": "True"}, {}, ("epsilon", True)),
        ((), {}, {"prediction": "v_prediction", "zero_snr": True}, ("v_prediction", True)),
        (("v_pred", "ztsnr"), {}, {"prediction": "epsilon", "zero_snr": False}, ("epsilon", False)),
    ],
)
def test_how_it_was_trained_follows_from_setting_keys_or_metadata(
    tmp_path: Path, marks: tuple[str, ...], metadata: dict[str, str], settings: dict[str, Any], wanted: tuple[str, Any]
) -> None:
    path = full_size(tmp_path / "v.safetensors", change=_mark(*marks), metadata=metadata)
    scheduler = _open(path, **settings).scheduler
    assert (scheduler["prediction_type"], scheduler.get("rescale_betas_zero_snr")) == wanted
    assert (scheduler["timestep_spacing"] == "trailing") == ("ztsnr" in marks or bool(wanted[1]))


def _drop(*starts: str) -> Callable[[dict[str, tuple[int, ...]]], None]:
    def change(shapes: dict[str, tuple[int, ...]]) -> None:
        for name in [name for name in shapes if name.startswith(starts)]:
            del shapes[name]

    return change


def _shaped(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, tuple[int, ...]]], None]:
    return lambda shapes: shapes.update({name: shape})


def _narrower(shapes: dict[str, tuple[int, ...]]) -> None:
    shapes.update({name: (*shape[:-1], 768) for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")})


WRONG: dict[str, tuple[Callable[[dict[str, tuple[int, ...]]], None], str]] = {
    "a missing tensor": (_drop(UNET + "middle_block.1.norm.weight"), "its unet lacks 1 of 1680 tensors"),
    "a missing block": (_drop(UNET + "input_blocks.8."), "is it another model .SSD-1B, Vega."),
    "no VAE": (_drop("first_stage_model."), "holds no vae: name a file or folder that has it as the model's `vae`"),
    "no text encoders": (_drop("conditioner."), "holds no text_encoder: .* `text_encoders`"),
    "half a VAE": (_drop("first_stage_model.decoder."), "its vae lacks"),
    "image editing": (_shaped(UNET + "input_blocks.0.0.weight", (320, 8, 3, 3)), "InstructPix2Pix"),
    "another shape": (_shaped(UNET + "out.2.bias", (8,)), r"out.2.bias has the shape \[8\]; \[4\] wanted"),
    "SD 1.5": (_narrower, "a Stable Diffusion 1.x model"),
    "EDM": (_mark("edm_mean"), "an EDM model"),
    "a ControlNet": (_mark("control_model.input_blocks.0.0.weight"), "a ControlNet"),
    "a LoRA beside it": (_mark("lora_unet_x.lora_down.weight"), "a LoRA or its like"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_model_is_refused_by_what_is_wrong_with_it(tmp_path: Path, what: str) -> None:
    change, message = WRONG[what]
    with pytest.raises(BadCheckpoint, match=message):
        _open(full_size(tmp_path / "model.safetensors", change=change))


def test_a_model_that_fills_masks_is_known_by_nine_channels(tmp_path: Path, demo: Path) -> None:
    nine = _shaped(UNET + "input_blocks.0.0.weight", (320, 9, 3, 3))
    found = _open(full_size(tmp_path / "model.safetensors", change=nine))
    assert (found.inpaints, found.networks["unet"].config["in_channels"]) == (True, 9)
    assert not _open(full_size(tmp_path / "plain.safetensors")).inpaints
    folder = inpainting_models.write(tmp_path / "filler", demo)
    assert _open(folder).inpaints
    source = source_of(folder)
    assert (source.inpainting, inpainting_seen(source)) == (True, True)
    for path, wanted in ((folder, True), (tmp_path / "model.safetensors", True), (demo, False), (tmp_path / "x", None)):
        assert inpainting_seen(ModelSource(path=str(path), revision="r")) is wanted
    with pytest.raises(BadCheckpoint, match=r"fills masks \(nine channels\), its setting says inpainting False"):
        check_model(source.model_copy(update={"inpainting": False}))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("double_blocks.0.img_attn.norm.key_norm.scale",), "a Flux model"),
        (("time_embedding.cond_proj.weight",), "an LCM of its own UNet"),
        (("encoder_hid_proj.weight",), "a Kolors model"),
        (("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",), "a Stable Diffusion 3 model"),
        (("lora_unet_down_blocks_1.lora_down.weight",), "a LoRA or its like; it belongs into TESSERA_LORAS"),
        (("decoder.conv_in.weight", "encoder.conv_in.weight"), "a VAE alone, which belongs beside a model"),
        (("clip_l", "clip_g"), "an embedding"),
        (("text_model.embeddings.token_embedding.weight",), "text encoders alone"),
        (("whatever",), "it holds 1 tensors .whatever."),
        ((), "it holds no tensors"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        _open(sparse(tmp_path / "x.safetensors", dict.fromkeys(names, (1,))))


def test_a_prediction_that_is_not_known_is_refused_unless_the_setting_says_one(tmp_path: Path) -> None:
    path = full_size(tmp_path / "flow.safetensors", metadata={"modelspec.prediction_type": "flow"})
    with pytest.raises(BadCheckpoint, match=r"that it predicts 'flow' .*the model's setting `prediction`"):
        _open(path)
    assert _open(path, prediction="epsilon").scheduler["prediction_type"] == "epsilon"


def test_what_is_not_used_is_named_and_what_means_nothing_is_not(tmp_path: Path) -> None:
    change = _mark("conditioner.embedders.0.transformer.text_model.embeddings.position_ids", "bonus.weight")
    (note,) = _open(full_size(tmp_path / "m.safetensors", change=change)).notes
    assert note == "1 tensors are not used: bonus.weight"


def test_vae_and_text_encoders_may_come_from_elsewhere(tmp_path: Path) -> None:
    whole = full_size(tmp_path / "whole.safetensors")
    unet = full_size(tmp_path / "unet.safetensors", parts=("unet",))
    vae = full_size(tmp_path / "vae.safetensors", parts=("vae",))
    found = _open(unet, vae=vae, text_encoders=whole)
    assert {name: {one.path.name for one in network.tensors.values()} for name, network in found.networks.items()} == {
        "unet": {"unet.safetensors"},
        "vae": {"vae.safetensors"},
        "text_encoder": {"whole.safetensors"},
        "text_encoder_2": {"whole.safetensors"},
    }
    assert "its vae comes from vae.safetensors" in found.notes
    with pytest.raises(BadCheckpoint, match=r"vae.safetensors holds no text_encoder"):
        _open(unet, vae=vae, text_encoders=vae)


def test_a_folders_variant_is_named_in_the_setting(demo: Path) -> None:
    for path in demo.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert len(_open(demo, variant="fp16").networks) == 4
    with pytest.raises(BadCheckpoint, match="no weights of variant none; of fp16 it has: set the model's `variant`"):
        _open(demo)


def _shard(folder: Path) -> list[str]:
    (whole,) = folder.glob("*.safetensors")
    tensors = load_file(whole)
    names = sorted(tensors)
    files = {f"{whole.stem}-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / f"{whole.stem}.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()
    return list(files)


def test_shards_are_found_by_their_index(demo: Path) -> None:
    _shard(demo / "unet")
    files = _shard(demo / "text_encoder_2")
    found = _open(demo)
    assert len({stored.path for stored in found.networks["unet"].tensors.values()}) == 2
    (demo / "text_encoder_2" / files[1]).unlink()
    with pytest.raises(BadCheckpoint, match=r"text_encoder_2 lacks 1 of 2 shards .*00002.*; download them"):
        _open(demo)


def _write(demo: Path, file: str, change: dict[str, Any], *less: str) -> None:
    path = demo / file
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in less}))


def _pickled(demo: Path) -> None:
    (demo / "vae" / "diffusion_pytorch_model.safetensors").rename(demo / "vae" / "diffusion_pytorch_model.bin")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no class": (lambda demo: _write(demo, "model_index.json", {}, "_class_name"), "names no _class_name"),
    "of others": (
        lambda demo: _write(demo, "model_index.json", {"_class_name": "StableDiffusionXLInstructPix2PixPipeline"}),
        "found a StableDiffusionXLInstructPix2PixPipeline, wanted a StableDiffusionXLPipeline",
    ),
    "no index": (lambda demo: (demo / "model_index.json").unlink(), "has no model_index.json"),
    "index is a list": (lambda demo: (demo / "model_index.json").write_text("[]"), "found no JSON object"),
    "no scheduler": (lambda demo: shutil.rmtree(demo / "scheduler"), "scheduler_config.json in scheduler is not there"),
    "scheduler without class": (
        lambda demo: _write(demo, "scheduler/scheduler_config.json", {}, "_class_name"),
        "scheduler's configuration names no _class_name",
    ),
    "flow matching": (
        lambda demo: _write(
            demo, "scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}
        ),
        "its own scheduler is 'FlowMatchEulerDiscreteScheduler', which is not known here",
    ),
    "no UNet": (lambda demo: shutil.rmtree(demo / "unet"), "config.json in unet is not there"),
    "no weights": (
        lambda demo: next((demo / "vae").glob("*.safetensors")).unlink(),
        "demo/vae has no safetensors weights",
    ),
    "pickled": (_pickled, "demo/vae has pickled weights only"),
    "no tokenizer": (lambda demo: shutil.rmtree(demo / "tokenizer_2"), "tokenizer_2 in demo is not there"),
    "nine channels": (
        lambda demo: _write(demo, "unet/config.json", {"in_channels": 9}),
        "conv_in.weight has the shape",
    ),
    "another text width": (
        lambda demo: _write(demo, "text_encoder/config.json", {"hidden_size": 32}),
        "demo/text_encoder: .* has the shape",
    ),
    "half a file": (
        lambda demo: next((demo / "unet").glob("*.safetensors")).write_bytes(
            next((demo / "unet").glob("*.safetensors")).read_bytes()[:-100]
        ),
        "100 bytes are missing. Download it again",
    ),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_wrong_folder_is_refused_by_what_is_wrong_with_it(demo: Path, what: str) -> None:
    change, message = FOLDERS[what]
    change(demo)
    with pytest.raises(BadCheckpoint, match=message):
        _open(demo)


def test_a_single_file_of_another_size_is_described_by_a_folder(tmp_path: Path) -> None:
    path = single_file(DEMO, tmp_path / "small.safetensors")
    found = _open(path, config=DEMO)
    assert found.tokenizers == {"tokenizer": DEMO / "tokenizer", "tokenizer_2": DEMO / "tokenizer_2"}
    with pytest.raises(BadCheckpoint, match="A model of another size needs `config`"):
        _open(path)


def test_scaled_fp8_is_known_and_integers_are_not(tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.weight"

    def scale(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)

    marks = {"model.diffusion_model.out.2.scale_weight": torch.tensor(0.5), "scaled_fp8": torch.empty(2)}
    found = _open(single_file(DEMO, tmp_path / "a.safetensors", beside=marks, change=scale), config=DEMO)
    assert found.networks["unet"].tensors["conv_out.weight"].scale == "model.diffusion_model.out.2.scale_weight"
    assert found.networks["unet"].tensors["conv_in.weight"].scale is None

    def whole(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[key].to(torch.int8)

    with pytest.raises(BadCheckpoint, match=r"out.2.weight is stored as I8, quantised"):
        _open(single_file(DEMO, tmp_path / "b.safetensors", change=whole), config=DEMO)


def test_every_part_of_a_single_file_has_a_name_of_its_own() -> None:
    assert len({checkpoints.PREFIXES[part][0] for part in ALL}) == 4
