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
from safetensors.torch import save_file

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Rendered
from distri.model.lora import Lora
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
    parts = (engine._preparation._model.unet, *engine._preparation._model.text_encoders)
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    engine._preparation.loras.set([Lora(files["peft"], 0.7), Lora(files["kohya"], 0.4)])
    changed = [
        name
        for part, old in zip(parts, before, strict=True)
        for name, value in part.state_dict().items()
        if not torch.equal(value, old[name])
    ]
    assert len(changed) == len(loras.UNET) + 2 * len(loras.TEXT)
    engine._preparation.loras.set([])
    for part, old in zip(parts, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in part.state_dict().items())


def _bad(folder: Path, kind: str, parts: dict[str, Any]) -> Lora:
    path = folder / "bad.safetensors"
    if kind == "missing":
        return Lora(folder / "nowhere.safetensors")
    if kind == "no safetensors":
        path.write_bytes(b"PK\x03\x04 a pickle by any other name")
        return Lora(path)
    weight = torch.zeros(2, 5)
    states = {
        "of another model": {"unet.conv_in.lora_A.weight": weight, "unet.conv_in.lora_B.weight": weight.clone()},
        "of other modules": {"unet.there.lora_A.weight": weight, "unet.there.lora_B.weight": weight.clone()},
        "half of one": {"unet.conv_in.lora_A.weight": weight},
        "a DoRA": {"lora_unet_conv_in.dora_scale": weight},
        "a LoHa": {"lora_unet_conv_in.hada_w1_a": weight},
        "empty": {},
    }
    if kind in states:
        save_file(states[kind], path)
        return Lora(path)
    return Lora(loras.peft(path, parts), sha256=hashlib.sha256(b"other").hexdigest())


BAD = {
    "missing": "cannot be read",
    "no safetensors": "cannot be read as safetensors",
    "of another model": "do not fit",
    "of other modules": r"unet\.there, which this model has no weights for",
    "half of one": r"unet\.conv_in",
    "a DoRA": "DoRA",
    "a LoHa": "LoRA bad.safetensors",
    "empty": "no LoRA weights at all",
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
