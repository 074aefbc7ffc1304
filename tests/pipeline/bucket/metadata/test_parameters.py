"""The text of the web UIs: what stands in it whatever was asked for, and how A1111's own expressions take it apart."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.bucket.metadata.parameters import parameters_text
from pipeline.input_picture import AdapterReference, Control, InputPicture, Preprocess
from pipeline.picture import Highres, HighresMode, Lora, RenderDetails, Scheduler, Stage, Syntax
from pipeline.promptset.fields.control import WantedControl
from pipeline.promptset.fields.row import Row
from pipeline.promptset.formats.infotext import parse_infotext
from pipeline.promptset.names.samplers import scheduler_of
from pipeline.promptset.syntax import a1111
from pipeline.promptset.syntax.escape import unescape
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import image_result, resolved_row

# `re_param` of modules/infotext_utils.py of AUTOMATIC1111/stable-diffusion-webui.
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SHA, TENSORS = "0123456789" + "a" * 54, "fedcba987654" + "b" * 52
ALWAYS = ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "Version")
OWN = Scheduler(name="EulerDiscreteScheduler", settings={"timestep_spacing": "leading", "use_karras_sigmas": False})


def _result(changes: dict[str, Any] | None = None, made: RenderDetails | None = None, **provenance: Any) -> ImageResult:
    result = image_result(ImageTask(resolved_row(**(changes or {})), 0))
    known = {"scheduler": OWN} | provenance
    return result.model_copy(
        update={
            "made": made or RenderDetails(),
            "provenance": result.provenance.model_copy(update=known),
        }
    )


def _read(text: str) -> tuple[str, str, dict[str, str]]:
    """As `parse_generation_parameters` does: prompt, negative prompt, settings."""
    *lines, last = text.strip().split("\n")
    prompt, negative, done = "", "", False
    for line in lines:
        if line.startswith("Negative prompt:"):
            done, line = True, line[16:].strip()  # noqa: PLW2901
        if done:
            negative += ("" if not negative else "\n") + line
        else:
            prompt += ("" if not prompt else "\n") + line
    return prompt, negative, {name: json.loads(v) if v[:1] == '"' else v for name, v in PARAMETER.findall(last)}


@pytest.mark.parametrize(
    "changes", [{}, {"scheduler": scheduler_of("DPM++ 2M Karras")}, {"model": "Juggernaut: XL, v9"}]
)
def test_the_settings_that_galleries_want_always_stand(changes: dict[str, Any]) -> None:
    settings = _read(parameters_text(_result(changes)))[2]
    assert [name for name in ALWAYS if not settings.get(name)] == []
    assert settings["Model"] == changes.get("model", "demo")


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"use_karras_sigmas": True, "timestep_spacing": "leading"}, "Karras"),
        ({"use_exponential_sigmas": True}, "Exponential"),
        ({"timestep_spacing": "trailing"}, "SGM Uniform"),
        ({"timestep_spacing": "linspace"}, "Uniform"),
        ({"timestep_spacing": "leading"}, "DDIM"),
        ({}, None),
    ],
)
def test_the_schedule_has_the_name_that_a1111_has_for_it(settings: dict[str, Any], shown: str | None) -> None:
    used = Scheduler(name="EulerDiscreteScheduler", settings=settings)
    read = _read(parameters_text(_result(scheduler=used)))[2]
    assert (read["Sampler"], read.get("Schedule type")) == ("Euler", shown)


@pytest.mark.parametrize(
    ("sha256", "revision", "shown"),
    [(SHA, "r1", SHA[:10]), (None, SHA[:40], SHA[:10]), (None, "v1.0", "d37b50cc80"), (None, "main", "894d9ddbf3")],
)
def test_a_folder_has_a_hash_of_its_revision(sha256: str | None, revision: str, shown: str) -> None:
    text = parameters_text(_result(model_sha256=sha256, model_revision=revision))
    assert _read(text)[2]["Model hash"] == shown


def test_loras_stand_with_the_hashes_of_a1111_and_of_civitai() -> None:
    loras = (Lora(name="film", scale=0.5), Lora(name="grain", text_scale=0.25))
    made: dict[str, Any] = {"loras": {"film": SHA, "grain": SHA}, "lora_tensors": {"film": TENSORS, "grain": TENSORS}}
    text = parameters_text(_result({"loras": loras}, **made))
    assert 'Lora hashes: "film: fedcba987654, grain: fedcba987654"' in text
    hashes = re.search(r", Hashes:\s*({[^}]+})", text)  # as Civitai looks for them
    assert hashes is not None
    assert json.loads(hashes[1]) == {"model": "70e9ef75f1", "lora:film": SHA[:10], "lora:grain": SHA[:10]}
    prompt, _, settings = _read(text)
    assert prompt == "a harbour <lora:film:0.5> <lora:grain:0.25:1>"
    assert (settings["Lora hashes"], settings["Version"]) == ("film: fedcba987654, grain: fedcba987654", "tessera 0")


def test_block_weights_stand_where_the_web_ui_s_extension_reads_them() -> None:
    loras = (
        Lora(name="film", scale=0.5, blocks={"IN04": 0.5, "OUT01": 0}),
        Lora(name="odd", blocks={"up_blocks.0": 0}),
    )
    prompt = _read(parameters_text(_result({"loras": loras})))[0]
    found = re.fullmatch(r"a harbour <lora:film:0.5:0.5:lbw=([^>]+)> <lora:odd:1>", prompt)
    assert found is not None
    (tag,) = a1111.lora_tags(prompt[: found.end(1) + 1])
    assert (tag.scale, tag.text_scale, tag.blocks) == (0.5, 0.5, "1,1,1,1,1,0.5,1,1,1,1,1,1,0,1,1,1,1,1,1,1")


def test_a_refiner_stands_as_a1111_writes_it_where_it_took_part() -> None:
    made: dict[str, Any] = {"refiner": "sd_xl_refiner_1.0", "refiner_revision": "7440042bbdc8a24813002c09b6b69b64"}
    text = parameters_text(_result({"refiner_switch_at": 0.8}, **made))
    assert "Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.8" in text
    assert "Refiner" not in parameters_text(_result(**made))
    unnamed = parameters_text(_result({"refiner_switch_at": 0.8}, refiner_revision="v1"))  # of an earlier version
    assert re.search(r"Refiner: refiner \[[0-9a-f]{10}\], Refiner switch at: 0.8", unnamed)
    found = parse_infotext(text)
    assert found is not None
    assert found.fields["refiner_switch_at"] == 0.8
    assert found.left_out == ("Refiner: sd_xl_refiner_1.0 [7440042bbd]",)


@pytest.mark.parametrize(
    ("syntax", "prompt", "shown"),
    [
        (None, "a (tall:1.2) [tower]", r"a \(tall:1.2\) \[tower\]"),
        (Syntax.NONE, "a (tall:1.2)", r"a \(tall:1.2\)"),
        (Syntax.A1111, "a (tall:1.2) [x|y] <lora:film_v2:0.8>, fog BREAK sea", "a (tall:1.2) [x|y], fog BREAK sea"),
        (Syntax.COMFY, "a (tall:1.2) [tower], embedding:easy", r"a (tall:1.2) \[tower\], easy"),
        (Syntax.COMPEL, "a tall++ tower", "a(tall:1.21)tower"),
        (Syntax.COMPEL, '("a", "b").blend(1, 1)', '("a", "b").blend(1, 1)'),
    ],
)
def test_a_prompt_of_any_syntax_is_written_in_that_of_the_web_uis(
    syntax: Syntax | None, prompt: str, shown: str
) -> None:
    result = _result({"prompt": prompt, "syntax": syntax, "embeddings": ("easy",)})
    assert parameters_text(result).split("\nSteps:")[0] == shown


def test_embeddings_vae_and_clip_skip_stand_where_they_apply() -> None:
    text = parameters_text(_result({"clip_skip": 3}, embeddings={"easy": SHA}, vae="fix.safetensors"))
    settings = _read(text)[2]
    found = [settings[name] for name in ("TI hashes", "VAE", "Clip skip")]
    assert found == [f"easy: {SHA[:12]}", "fix.safetensors", "3"]
    assert f'"embed:easy": "{SHA[:10]}"' in text


def test_control_stands_there_as_the_extension_of_web_uis_writes_it() -> None:
    picture = InputPicture(sha256=SHA, width=64, height=64)
    steered = Control(model="edges", image=picture, preprocess=Preprocess.CANNY, scale=0.7, end=0.5)
    text = parameters_text(_result({"control": (steered,)}, controlnets={"edges": SHA}))
    assert _read(text)[2]["ControlNet 0"] == (
        f"Module: canny, Model: edges [{SHA[:8]}], Weight: 0.7, Resize Mode: Crop and Resize, Guidance Start: 0, "
        "Guidance End: 0.5, Control Mode: Balanced"
    )


@pytest.mark.parametrize("mode", range(9))
def test_what_a_picture_is_to_a_union_stands_there_and_is_read_as_the_same(mode: int) -> None:
    picture = InputPicture(sha256=SHA, width=64, height=64)
    text = parameters_text(_result({"control": (Control(model="union", image=picture, mode=mode),)}))
    unit = dict(part.split(": ") for part in _read(text)[2]["ControlNet 0"].split(", "))
    written = unit["Union Control Type"]
    if mode > 7:  # of a union that has more kinds than the published ones
        assert written == "Unknown"
        return
    assert WantedControl(model="union", image="a.png", mode=written).mode == mode


def test_references_stand_behind_control_as_units_of_the_same_extension() -> None:
    picture = InputPicture(sha256=SHA, width=64, height=64)
    row = {
        "control": (Control(model="edges", image=picture),),
        "reference": (AdapterReference(adapter="face", image=picture, scale=0.6),),
    }
    settings = _read(parameters_text(_result(row, ip_adapters={"face": SHA})))[2]
    assert "Model: edges" in settings["ControlNet 0"]
    assert settings["ControlNet 1"].startswith(f"Module: ip-adapter-auto, Model: face [{SHA[:8]}], Weight: 0.6, ")


@pytest.mark.parametrize("negative", [None, "", "blur"])
def test_we_read_back_what_we_wrote(negative: str | None) -> None:
    result = _result({"prompt": "a (tower)", "negative_prompt": negative, "scheduler": scheduler_of("DPM++ 2M Karras")})
    read = parse_infotext(parameters_text(result))
    assert read is not None
    assert (read.left_out, read.model) == ((), "demo")
    fields = dict(read.fields)
    assert unescape(fields.pop("prompt")) == "a (tower)"
    assert fields["negative_prompt"] == negative
    Row.model_validate({"prompt": "x", "syntax": "a1111", **fields})


@pytest.mark.parametrize(
    ("width", "height", "hires"),
    [
        (2048, 2048, {"Hires upscale": "2"}),
        (2050, 2048, {"Hires resize": "2050x2048"}),
    ],
)
def test_a_picture_of_two_passes_reads_as_a_hires_fix(width: int, height: int, hires: dict[str, str]) -> None:
    stages = (
        Stage(width=1024, height=1024, steps=30, seed=1),
        Stage(width=2048, height=2048, steps=20, strength=0.4, seed=2),
    )
    changes = {"width": width, "height": height, "highres": Highres(mode=HighresMode.REFINE, strength=0.4)}
    settings = _read(parameters_text(_result(changes, RenderDetails(stages=stages))))[2]
    found = {name: settings[name] for name in settings if name.startswith(("Hires", "Size", "Denoising"))}
    wanted = {"Size": "1024x1024", "Denoising strength": "0.4", "Hires steps": "8", "Hires upscaler": "Lanczos"}
    assert found == wanted | hires


@pytest.mark.parametrize(
    "prompt",
    [
        "a\nNegative prompt: b",
        "Negative prompt: b\nc",
        "Steps: 3\nSteps: 5, Sampler: x, Seed: 1",
        "a (b:1.2) [c]\n\nd",
        "  a  ",
    ],
)
@pytest.mark.parametrize("negative", [None, "", "blur (x)\nNegative prompt: y"])
def test_no_prompt_is_taken_for_another_part_of_the_text(prompt: str, negative: str | None) -> None:
    text = parameters_text(_result({"prompt": prompt, "negative_prompt": negative}))
    read = _read(text)

    def words(value: str) -> list[str]:
        return (unescape(value) or "").split()

    assert (words(read[0]), words(read[1])) == (prompt.split(), (negative or "").split())
    assert read[2]["Steps"] == "2"
    assert ("\nNegative prompt:" in text) == (negative is not None)
