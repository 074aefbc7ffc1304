"""LoRA files of every format against diffusers with peft, and taken out again without a trace."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distri.engine import Engine, EngineSettings
from distri.model.adapters.changes import Change
from distri.model.adapters.lora import FusedLoras, Lora
from distri.model.image import ImageSpec, Rendered
from distri.ranks.errors import BadImage, BadLora
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import loras, on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True)
PLAIN = ImageSpec("a photo of a cat", None, seed=7, width=96, height=128, steps=2, guidance_scale=5.0)


@pytest.fixture(scope="module")
def files(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, parts = tmp_path_factory.mktemp("loras"), reference.pipeline(model_dir).components
    return {
        "peft": loras.peft(folder / "peft.safetensors", parts),
        "peft with alpha": loras.peft(folder / "alpha.safetensors", parts, seed=4, alpha=2.0),
        "kohya": loras.kohya(folder / "kohya.safetensors", parts),
        "old diffusers": loras.old_diffusers(folder / "old.safetensors", parts),
    }


SETS = [
    [("peft", 1.0)],
    [("peft with alpha", 0.8)],
    [("kohya", 1.0)],
    [("old diffusers", -0.5)],
    [("peft", 0.7), ("kohya", 0.4), ("old diffusers", 1.5)],
]


def _wanted(model_dir: Path, files: dict[str, Path], chosen: list[tuple[str, float]]) -> Any:
    pipe: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(model_dir, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    for number, (name, _) in enumerate(chosen):
        pipe.load_lora_weights(files[name], adapter_name=f"a{number}")
    pipe.set_adapters([f"a{number}" for number in range(len(chosen))], [scale for _, scale in chosen])
    arguments = {"width": PLAIN.width, "height": PLAIN.height, "num_inference_steps": PLAIN.steps}
    generator = torch.Generator().manual_seed(PLAIN.seed)
    images = pipe(PLAIN.prompt, guidance_scale=5.0, generator=generator, output_type="np", **arguments).images
    return images[0] * 255


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_loras_of_every_format_give_the_picture_of_diffusers_with_peft(
    ranks: Callable[[int], Ranks], model_dir: Path, files: dict[str, Path], count: int, layout: str
) -> None:
    images = [replace(PLAIN, loras=tuple(Lora(files[name], scale) for name, scale in chosen)) for chosen in SETS]
    answers = ranks(count).run(on_ranks.render, model_dir, layout, EXACT, [PLAIN, *images, PLAIN])[0]
    for chosen, found in zip(SETS, answers[1:-1], strict=True):
        assert np.abs(found.pixels - _wanted(model_dir, files, chosen)).max() < 1, chosen
        assert np.abs(found.pixels.astype(float) - answers[0].pixels).max() > 3, chosen
    assert np.array_equal(answers[0].pixels, answers[-1].pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_are_what_they_were_bit_for_bit(
    model_dir: Path, files: dict[str, Path], dtype: torch.dtype
) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=dtype, settings=EXACT)
    parts = (engine._parts.preparation._model.unet, *engine._parts.preparation._model.text_encoders)
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    engine._parts.preparation.loras.set([Lora(files["peft"], 0.7), Lora(files["kohya"], 0.4)])
    changed = [
        name
        for part, old in zip(parts, before, strict=True)
        for name, value in part.state_dict().items()
        if not torch.equal(value, old[name])
    ]
    assert len(changed) == len(loras.UNET) + 2 * len(loras.TEXT)
    engine._parts.preparation.loras.set([])
    for part, old in zip(parts, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in part.state_dict().items())


OF_PEFT: dict[str, dict[str, Any]] = {
    "regular expressions": {"alpha_pattern": {r"down_blocks.*attn1\.to_(q|k)": 9, "proj": 1.0, r"mid_block\..*": 0.5}},
    "the root of the rank": {"use_rslora": True, "alpha_pattern": {"conv1": 2}},
    "a DoRA": {"use_dora": True},
}


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize("kind", list(OF_PEFT))
def test_settings_of_peft_give_the_weights_of_peft(model_dir: Path, tmp_path: Path, kind: str, scale: float) -> None:
    pipe: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(model_dir, add_watermarker=False)
    file = loras.of_unet(tmp_path / "unet.safetensors", pipe.components, OF_PEFT[kind], dora=kind == "a DoRA")
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    plain = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(file, adapter_name="a")
    pipe.set_adapters(["a"], [scale])
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    engine._parts.preparation.loras.set([Lora(file, scale)])
    ours = engine._parts.preparation._model.unet.state_dict()
    changed = [name for name, value in pipe.unet.state_dict().items() if not torch.equal(value, plain[name])]
    assert len(changed) == len(loras.UNET)
    for name, value in pipe.unet.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def _fused(model_dir: Path, lora: Lora) -> tuple[FusedLoras, dict[str, torch.Tensor]]:
    """The model's LoRAs, and by the name of the weight, what it has gained."""
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    fused, model = engine._parts.preparation.loras, engine._parts.preparation._model
    parts = {"unet": model.unet, "text_encoder": model.text_encoders[0], "text_encoder_2": model.text_encoders[1]}
    plain = {f"{part}.{name}": value for part, root in parts.items() for name, value in root.state_dict().items()}
    before = {name: value.clone() for name, value in plain.items()}
    fused.set([lora])
    return fused, {name: value - before[name] for name, value in plain.items() if not torch.equal(value, before[name])}


def test_text_encoders_and_blocks_have_scales_of_their_own(model_dir: Path, files: dict[str, Path]) -> None:
    _, plain = _fused(model_dir, Lora(files["kohya"]))
    blocks = (
        ("IN04", 0.5),
        ("M00", 0.0),
        ("up_blocks.0.attentions.2", 3.0),
        ("up_blocks.0", 7.0),
        ("text_encoder_2", 2.0),
    )
    lora = Lora(files["kohya"], 2.0, text_scale=0.25, blocks=(*blocks, ("IN09", 0.0)))
    fused, scaled = _fused(model_dir, lora)
    assert fused.warnings == ("LoRA kohya.safetensors: this model has no blocks IN09",)
    for name, gain in plain.items():
        wanted = 2.0
        if name.startswith("text_encoder"):
            wanted = 0.25 * (2.0 if name.startswith("text_encoder_2") else 1.0)
        elif name.startswith("unet.down_blocks.1.attentions.0"):
            wanted = 2.0 * 0.5
        elif name.startswith("unet.up_blocks.0.attentions.2"):
            wanted = 2.0 * 3.0
        if name.startswith("unet.mid_block"):
            assert name not in scaled
        else:
            torch.testing.assert_close(scaled[name], wanted * gain, rtol=1e-3, atol=1e-5)


def test_what_a_file_holds_beside_what_fits_is_a_warning(
    model_dir: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    state = load_file(files["kohya"])
    state["lora_unet_input_blocks_1_0_in_layers_2.alpha"] = torch.tensor(0.0)
    state |= {f"lora_te3_block_{n}.lora_{side}.weight": torch.zeros(2, 2) for n in range(5) for side in ("up", "down")}
    state["lora_unet_out_2.lora_up.weight"] = torch.zeros(2, 2)
    state["lora_unet_input_blocks_0_0.diff"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "more.safetensors")
    fused, _ = _fused(model_dir, Lora(tmp_path / "more.safetensors"))
    unknown, incomplete, misfit, silent = fused.warnings
    assert "10 tensors of lora_te3_block_0, lora_te3_block_1, lora_te3_block_2 and 2 more" in unknown
    assert "1 tensor of lora_unet_out_2, whose tensors make no known kind" in incomplete
    assert "found (3, 3), wanted what makes (" in misfit
    assert "lora_unet_input_blocks_1_0_in_layers_2, whose alpha is 0" in silent
    fused.set([])
    assert not fused.warnings


@pytest.mark.parametrize(("number", "match"), [(float("nan"), "not finite"), (1e30, "lower its scale")])
def test_a_file_that_makes_weights_no_numbers_is_refused_after_fusing_and_taken_out(
    model_dir: Path, files: dict[str, Path], tmp_path: Path, number: float, match: str
) -> None:
    state = load_file(files["kohya"])
    name = "lora_te2_text_model_encoder_layers_1_mlp_fc1"
    state[f"{name}.lora_up.weight"][0, 0] = number
    state[f"{name}.lora_down.weight"][0, 0] = 1e20
    save_file(state, tmp_path / "bad.safetensors")
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    fused, unet = engine._parts.preparation.loras, engine._parts.preparation._model.unet
    before = {name: (value.data_ptr(), value.clone()) for name, value in unet.state_dict().items()}
    with pytest.raises(BadLora, match=match):
        fused.set([Lora(tmp_path / "bad.safetensors")])
    assert fused.holds([])
    for name, value in unet.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])


def test_an_error_in_the_middle_of_fusing_leaves_nothing_behind(
    model_dir: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    fused, model = engine._parts.preparation.loras, engine._parts.preparation._model
    weights = [value for part in (model.unet, *model.text_encoders) for value in part.state_dict().values()]
    before = [value.clone() for value in weights]
    whole, left = Change.onto, [3]

    def onto(change: Change, weight: torch.Tensor) -> torch.Tensor:
        left[0] -= not weight.is_meta
        if left[0] < 0:
            raise MemoryError
        return whole(change, weight)

    monkeypatch.setattr(Change, "onto", onto)
    with pytest.raises(MemoryError):
        fused.set([Lora(files["peft"])])
    assert sum(not torch.equal(*pair) for pair in zip(weights, before, strict=True)) == 3
    assert not fused.holds([])
    fused.set([])
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_files_of_every_dtype_are_read(
    model_dir: Path, files: dict[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    save_file(
        {name: value.to(dtype) for name, value in load_file(files["kohya"]).items()}, tmp_path / "small.safetensors"
    )
    _, plain = _fused(model_dir, Lora(files["kohya"]))
    _, small = _fused(model_dir, Lora(tmp_path / "small.safetensors"))
    for name, gain in plain.items():
        assert (small[name] - gain).norm() < 0.1 * gain.norm()


def _bad(folder: Path, kind: str, parts: dict[str, Any]) -> Lora:
    path = folder / "bad.safetensors"
    if kind == "missing":
        return Lora(folder / "nowhere.safetensors")
    if kind == "no safetensors":
        path.write_bytes(b"PK\x03\x04 a pickle by any other name")
        return Lora(path)
    if kind == "a web page":
        path.write_text("<!DOCTYPE html><title>Sign in</title>")
        return Lora(path)
    if kind == "half a download":
        path.write_bytes(loras.peft(path, parts).read_bytes()[:20_000])
        return Lora(path)
    weight = torch.zeros(2, 5)
    states = {
        "of another model": {"unet.conv_in.lora_A.weight": weight, "unet.conv_in.lora_B.weight": weight.clone()},
        "of other modules": {"unet.there.lora_A.weight": weight, "unet.there.lora_B.weight": weight.clone()},
        "half of one": {"unet.conv_in.lora_A.weight": weight},
        "a DoRA": {"lora_unet_conv_in.dora_scale": weight},
        "a LoHa": {"lora_unet_conv_in.hada_w1_a": weight},
        "empty": {},
        "a checkpoint": {
            "model.diffusion_model.out.2.weight": weight,
            "model.diffusion_model.out.2.bias": torch.zeros(2),
        },
        "for SD 1.5": {
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.zeros(
                2, 768
            ),
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.zeros(320, 2),
        },
        "for Flux": {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": weight},
        "of complex numbers": {"unet.conv_in.lora_A.weight": torch.zeros(2, 5, dtype=torch.complex64)},
        "an alpha that is no number": {
            "unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
            "unet.conv_in.lora_B.weight": torch.zeros(64, 2, 1, 1),
            "unet.conv_in.alpha": torch.tensor(float("nan")),
        },
    }
    if kind in states:
        save_file(states[kind], path)
        return Lora(path)
    return Lora(loras.peft(path, parts), sha256=hashlib.sha256(b"other").hexdigest())


BAD = {
    "missing": "cannot be read",
    "no safetensors": "zip archive",
    "a web page": "it is a web page",
    "half a download": "is cut off",
    "of another model": r"unet\.conv_in, whose shapes do not fit .*another kind of model",
    "of other modules": r"2 tensors of unet\.there, which this model has no weights for",
    "half of one": r"unet\.conv_in",
    "a DoRA": "no known kind of LoRA",
    "a LoHa": "LoRA bad.safetensors",
    "empty": "no LoRA weights at all",
    "a checkpoint": "a checkpoint, not a LoRA",
    "for SD 1.5": "made for SD 1.x: its cross-attention reads text of 768",
    "for Flux": "made for Flux",
    "an alpha that is no number": "alpha is no number",
    "of complex numbers": "tensors of type C64",
    "another file": "SHA-256",
}


def _refused(model_dir: Path, lora: Lora, match: str) -> tuple[Rendered, Rendered]:
    engine = on_ranks.engine(model_dir, "1x1x2", EXACT)
    before = engine.render(PLAIN, control=lambda: Control.GO)
    with pytest.raises(BadLora, match=match):
        engine.render(replace(PLAIN, loras=(lora,)), control=lambda: Control.GO)
    return before, engine.render(PLAIN, control=lambda: Control.GO)


@pytest.mark.parametrize("kind", list(BAD))
def test_a_file_that_cannot_be_used_is_refused_on_all_ranks_and_changes_nothing(
    ranks: Callable[[int], Ranks], model_dir: Path, tmp_path: Path, kind: str
) -> None:
    lora = _bad(tmp_path, kind, reference.pipeline(model_dir).components)
    before, after = ranks(2).run(_refused, model_dir, lora, BAD[kind])[0]
    assert np.array_equal(before.pixels, after.pixels)


def _on_one_rank_only(model_dir: Path, path: Path) -> str:
    engine = on_ranks.engine(model_dir, "1x1x2", EXACT)
    if engine.mesh.rank == 1:
        path = path.with_name("nowhere.safetensors")
    with pytest.raises(BadLora) as caught:
        engine.render(replace(PLAIN, loras=(Lora(path),)), control=lambda: Control.GO)
    return str(caught.value)


def test_a_file_that_one_rank_cannot_read_is_refused_on_all(
    ranks: Callable[[int], Ranks], model_dir: Path, files: dict[str, Path]
) -> None:
    first, second = ranks(2).run(_on_one_rank_only, model_dir, files["peft"])
    assert "another rank" in first
    assert "cannot be read" in second


def test_images_of_one_batch_have_the_same_loras(model_dir: Path, files: dict[str, Path]) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    with pytest.raises(BadImage, match="LoRAs"):
        engine.render_batch([PLAIN, replace(PLAIN, loras=(Lora(files["peft"]),))], control=lambda: Control.GO)
