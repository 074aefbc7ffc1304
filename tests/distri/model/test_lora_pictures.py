"""Whole pictures with a LoRA file of every kind, within half a level of 255 of those of its own trainer's code."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distri.engine import Engine, EngineSettings
from distri.model.adapters.lora import Lora
from distri.model.image import ImageSpec
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from pipeline.loras.kinds import AdapterKind
from pipeline.picture import Lora as RowLora
from pipeline.promptset.fields.shorthand import lora_blocks
from tests.distri import loras
from tests.distri.lycoris_modules import CASES, Case, saved, trained_module

PLAIN = ImageSpec("a photo of a cat", None, seed=7, width=64, height=64, steps=2, guidance_scale=5.0)
# Of 255, before both are rounded to 8 bits, which adds up to half a level. The largest that was measured was 0.001.
MOST_APART = 0.5
NORM = "down_blocks.1.attentions.0.norm"


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))


@pytest.fixture(scope="module")
def pipe(model_dir: Path) -> Any:
    """One of our own: what peft has put into a network and taken out again may leave traces."""
    found: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(model_dir, add_watermarker=False)
    found.set_progress_bar_config(disable=True)
    return found


def _wanted(pipe: Any) -> Any:
    arguments = {
        "width": PLAIN.width,
        "height": PLAIN.height,
        "num_inference_steps": PLAIN.steps,
        "guidance_scale": 5.0,
    }
    generator = torch.Generator().manual_seed(PLAIN.seed)
    return pipe(PLAIN.prompt, generator=generator, output_type="np", **arguments).images[0] * 255


def _rendered(engine: Engine, image: ImageSpec) -> tuple[Any, Any]:
    """In levels of 255: as the file has it, and before it was rounded to 8 bits."""
    latents = list[torch.Tensor]()
    pixels = engine.render(image, control=lambda: Control.GO, on_final_latent=latents.append).pixels
    assert pixels is not None
    exact, _ = engine.decode_patch(latents[0])
    return pixels.astype(float), ((exact[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def _check(engine: Engine, lora: Lora, wanted: Any, least: float = 3) -> None:
    """`least`: how many levels the LoRA must make, so that none would be seen."""
    (plain, _), (found, exact) = (_rendered(engine, image) for image in (PLAIN, replace(PLAIN, loras=(lora,))))
    apart = np.abs(exact - wanted).max()
    assert apart <= MOST_APART
    assert np.array_equal(found, np.rint(exact))
    assert np.abs(found - plain).max() > least


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
@torch.no_grad()
def test_what_lycoris_trains(engine: Engine, pipe: Any, tmp_path: Path, case: Case) -> None:
    names = [NORM] if case.kind is AdapterKind.NORM else loras.UNET
    strength = case.strengths[-1]
    state, at_work = dict[str, torch.Tensor](), []
    for name in names:
        original = pipe.unet.get_submodule(name)
        try:
            module = trained_module(case, original)
        except ValueError:  # butterflies are of some sizes only
            continue
        state |= {
            f"lora_unet_{name.replace('.', '_')}.{side}": value.contiguous()
            for side, value in saved(module, case).items()
        }
        module.multiplier, module.org_forward = strength, original.forward
        original.forward = module.forward  # not by apply_to, which takes the weights of some for good
        at_work.append(original)
    assert len(at_work) > len(names) // 2
    save_file(state, tmp_path / "lora.safetensors")
    try:
        wanted = _wanted(pipe)
    finally:
        for original in at_work:
            del original.forward
    _check(engine, Lora(tmp_path / "lora.safetensors", strength), wanted)


def _comfy(path: Path) -> Path:
    """A file of kohya's under the names that ComfyUI saves."""
    parts = {"lora_unet_": "diffusion_model.", "lora_te1_": "text_encoders.clip_l.transformer.", "lora_te2_": "clip_g."}
    renamed = {}
    for key, value in load_file(path).items():
        prefix = next(one for one in parts if key.startswith(one))
        renamed[parts[prefix] + key.removeprefix(prefix)] = value
    save_file(renamed, path.with_stem("comfy"))
    return path.with_stem("comfy")


def _fp8(path: Path) -> tuple[Path, Path]:
    """The file in fp8, and what it says in float32."""
    small = {key: value.to(torch.float8_e4m3fn) for key, value in load_file(path).items()}
    save_file(small, path.with_stem("fp8"))
    save_file({key: value.float() for key, value in small.items()}, path.with_stem("float"))
    return path.with_stem("fp8"), path.with_stem("float")


Files = Callable[[Path, dict[str, Any]], tuple[Path, Path]]


def _same(make: Callable[..., Path], **options: Any) -> Files:
    def files(folder: Path, parts: dict[str, Any]) -> tuple[Path, Path]:
        path = make(folder / "lora.safetensors", parts, **options)
        return path, path

    return files


# Of each kind our file, and the one that diffusers and peft read.
OF_PEFT: dict[str, Files] = {
    "peft": _same(loras.peft),
    "kohya": _same(loras.kohya),
    "ComfyUI's prefixes": lambda folder, parts: (
        _comfy(loras.kohya(folder / "lora.safetensors", parts)),
        folder / "lora.safetensors",
    ),
    "fp8": lambda folder, parts: _fp8(loras.kohya(folder / "lora.safetensors", parts)),
    "patterns": _same(loras.of_unet, settings={"alpha_pattern": {r"down_blocks.*attn1\.to_(q|k)": 9, "proj": 1.0}}),
    "the root of the rank": _same(loras.of_unet, settings={"use_rslora": True}),
    "DoRA": _same(loras.of_unet, settings={}, dora=True),
}


@pytest.fixture
def with_peft(pipe: Any) -> Iterator[Callable[[Path, Any], Any]]:
    """The picture with a file that diffusers loads, and its scales."""

    def picture(path: Path, scales: Any) -> Any:
        pipe.load_lora_weights(path, adapter_name="a")
        pipe.set_adapters(["a"], [scales])
        return _wanted(pipe)

    yield picture
    pipe.unload_lora_weights()


@pytest.mark.parametrize("kind", list(OF_PEFT))
def test_what_diffusers_loads_with_peft(
    engine: Engine, pipe: Any, with_peft: Callable[[Path, Any], Any], tmp_path: Path, kind: str
) -> None:
    ours, theirs = OF_PEFT[kind](tmp_path, pipe.components)
    _check(engine, Lora(ours, 0.8), with_peft(theirs, 0.8))


BLOCKS: dict[str, tuple[dict[str, Any], Any]] = {
    "of some": ({"down": {"block_1": 0.3}, "mid": 0.0, "up": {"block_0": [1.0, 1.0, 1.6]}},) * 2,
    "of all": ({"unet": {"down": 0.2, "mid": 1.5, "up": 0.6}, "text_encoder_2": 0.4},) * 2,
    "one for the UNet": ({"unet": 0.4, "text_encoder": 0.0},) * 2,
}


@pytest.mark.parametrize("scales", list(BLOCKS))
def test_scales_by_block_are_those_of_diffusers(
    engine: Engine, pipe: Any, with_peft: Callable[[Path, Any], Any], tmp_path: Path, scales: str
) -> None:
    ours, theirs = BLOCKS[scales]
    path = loras.attentions(tmp_path / "lora.safetensors", pipe.components)
    asked = theirs if theirs.keys() & {"unet", "text_encoder", "text_encoder_2"} else {"unet": theirs}
    blocks = tuple(RowLora.model_validate({"name": "a", "blocks": lora_blocks(ours)}).blocks.items())
    _check(engine, Lora(path, blocks=blocks), with_peft(path, asked))


LISTS = {
    "12 of SDXL": "1,0.5,0,0.3,1,0,1.5,0.2,1,1,0,0.7",
    "17 of SD 1.x": "0.4,1,0,0.5,1,0.2,1,0.6,1,0,1,0.3,0.9,1,1,1,1",
    "20 of SDXL": "0.3,1,0,0.5,1,0.2,1,0.6,1,0,1,0.3,0.9,1,0,1,0.1,0.2,0.3,1",
    "26": "0.3,1,0,0.5,1,0.2,1,0.6,1,0,1,1,1,0.4,0.3,0.9,1,0,1,0.1,0.2,0.3,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
}
# Its blocks by the length of a list, as the extension has them; "" are the text encoders, which the others come behind.
IDS = {
    12: ["", "IN04", "IN05", "IN07", "IN08", "M", *(f"OUT{n:02}" for n in range(6))],
    17: ["", *(f"IN{n:02}" for n in (1, 2, 4, 5, 7, 8)), "M", *(f"OUT{n:02}" for n in range(3, 12))],
    20: ["", *(f"IN{n:02}" for n in range(9)), "M", *(f"OUT{n:02}" for n in range(9))],
    26: ["", *(f"IN{n:02}" for n in range(12)), "M", *(f"OUT{n:02}" for n in range(12))],
}


def _ratio(key: str, ratios: dict[str, float]) -> float:
    """What sd-webui-lora-block-weight multiplies a module's `lora_up` with, by its name in the file."""
    if key.startswith("lora_te"):
        return ratios[""]
    if "middle_block_" in key:
        return ratios.get("M", 0.0)
    side, number = re.findall(r"(input|output)_blocks_(\d+)_", key)[0]
    return ratios.get(f"{'IN' if side == 'input' else 'OUT'}{int(number):02}", 0.0)


@pytest.mark.parametrize("form", list(LISTS))
def test_block_weights_are_those_of_the_web_ui_s_extension(
    engine: Engine, pipe: Any, with_peft: Callable[[Path, Any], Any], tmp_path: Path, form: str
) -> None:
    path = loras.kohya(tmp_path / "lora.safetensors", pipe.components)
    numbers = [float(number) for number in LISTS[form].split(",")]
    ratios = dict(zip(IDS[len(numbers)], numbers, strict=True))
    scaled = {
        key: value * _ratio(key, ratios) if key.endswith(".lora_up.weight") else value
        for key, value in load_file(path).items()
    }
    save_file(scaled, tmp_path / "scaled.safetensors")
    given = form if form == "OUTALL" else LISTS[form]
    blocks = tuple(RowLora.model_validate({"name": "a", "blocks": lora_blocks(given)}).blocks.items())
    _check(engine, Lora(path, 0.8, blocks=blocks), with_peft(tmp_path / "scaled.safetensors", 0.8))
