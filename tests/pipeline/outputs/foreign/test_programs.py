"""Pictures of other programs as rows: their prompts, sizes and seeds, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import RowError, RowWarning
from pipeline.outputs.foreign.found import ForeignPicture, NotCarriedOver
from pipeline.outputs.foreign.read import foreign_picture
from pipeline.outputs.pictures import open_prompts, picture_rows
from pipeline.promptset.fields.row import Row
from pipeline.promptset.syntax import a1111
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import Part, Span
from tests.pipeline.outputs.foreign.files import commented, png_with

A1111 = (
    "a (tall:1.2) tower\nin fog\nNegative prompt: blur\nSteps: 20, Sampler: DPM++ 2M, "
    "Schedule type: Karras, CFG scale: 6.5, Seed: 7, Size: 832x1216, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, "
    "Face restoration: CodeFormer, Version: v1.10.1"
)


def _lora(name: str, scale: float, before: str) -> dict[str, Any]:
    inputs = {"lora_name": name, "strength_model": scale, "strength_clip": scale, "model": [before, 0]}
    return {"class_type": "LoraLoader", "inputs": {**inputs, "clip": [before, 1]}}


GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 5,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "SDXL/juggernaut.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["20", 0], "clip": ["11", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["11", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["21", 0]}},
    "10": _lora("sub\\film.safetensors", 0.8, "12"),
    "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    "12": _lora("grain.safetensors", 0.5, "4"),
    "20": {"class_type": "PrimitiveString", "inputs": {"value": "a (tower:1.2)"}},
    "21": {"class_type": "Reroute", "inputs": {"": ["8", 0]}},
}


def _comfy(nodes: dict[str, Any] | None = None, inputs: dict[str, Any] | None = None) -> ForeignPicture:
    graph = json.loads(json.dumps(GRAPH)) | (nodes or {})
    for key, changed in (inputs or {}).items():
        graph[key]["inputs"] |= changed
    return _of(prompt=json.dumps(graph), workflow="{}")


def _of(**texts: str) -> ForeignPicture:
    found = foreign_picture(png_with(**texts))
    assert found is not None
    return found


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


@pytest.mark.parametrize(
    "body", [png_with(parameters=A1111), commented("JPEG", A1111, "unicode"), commented("WEBP", A1111, "unicode")]
)
def test_a_file_of_a1111_becomes_a_row_in_every_format(body: bytes) -> None:
    found = foreign_picture(body)
    assert found is not None
    assert (found.program, found.model, found.model_hash) == ("A1111 v1.10.1", "sd_xl_base_1.0", "31e35c80fc")
    assert found.left_out == ("Face restoration: CodeFormer",)
    prompts = {"syntax": "a1111", "prompt": "a (tall:1.2) tower\nin fog", "negative_prompt": "blur"}
    assert (prompts | {"seed": 7, "steps": 20, "width": 832, "guidance_scale": 6.5}).items() <= found.row.items()


def test_a_plain_graph_of_comfyui_becomes_a_row() -> None:
    found = _comfy()
    assert (found.program, found.model, found.left_out) == ("ComfyUI", "SDXL/juggernaut.safetensors", ())
    assert found.row == {
        "syntax": "comfy",
        "prompt": "a (tower:1.2)",
        "negative_prompt": "",
        "width": 1024,
        "height": 768,
        "steps": 20,
        "guidance_scale": 8.0,
        "seed": 5,
        "scheduler": {"name": "dpmpp_2m", "schedule": "karras"},
        "loras": [{"name": "grain.safetensors", "scale": 0.5}, {"name": "sub\\film.safetensors", "scale": 0.8}],
    }


def test_a_graph_goes_before_a_text_that_a_node_wrote_and_that_one_before_a_graph_that_is_not_plain() -> None:
    assert _of(parameters=A1111, prompt=json.dumps(GRAPH)).program == "ComfyUI"
    found = _of(parameters=A1111, prompt=json.dumps(GRAPH | {"5": _node("VAEEncode")}))
    assert found.row["seed"] == 7
    assert found.left_out[-1].startswith("ComfyUI's graph: node 'VAEEncode' (5)")


def test_sdxls_two_texts_and_sizes_are_carried_over_and_a_zeroed_negative_is_none() -> None:
    sizes = {"width": 2048, "height": 1024, "crop_w": 8, "crop_h": 0, "target_width": 1024, "target_height": 768}
    both = _node("CLIPTextEncodeSDXL", text_l="style", text_g="a tower", clip=["4", 1], **sizes)
    row = _comfy({"6": both, "7": _node("ConditioningZeroOut", conditioning=["6", 0])}).row
    wanted = {"prompt": "style", "prompt_2": "a tower", "negative_prompt": None}
    assert (wanted | {"original_size": [2048, 1024], "crop": [8, 0], "target_size": [1024, 768]}).items() <= row.items()


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ({"5": _node("VAEEncode")}, "node 'VAEEncode' (5) gives the sampler its latent"),
        ({"6": _node("ConditioningCombine")}, "node 'ConditioningCombine' (6) gives the prompt"),
        ({"4": _node("UNETLoader")}, "node 'UNETLoader' (4) gives the text encoders"),
        ({"3": _node("SamplerCustom")}, "node 'SamplerCustom' (3) in the place of a KSampler"),
        ({"8": _node("ImageScale")}, "node 'ImageScale' (8) between sampler and file"),
        ({"20": _node("WildcardProcessor", x=["9", 0])}, "(20) computes text of node"),
        ({"21": _node("Reroute", x=["21", 0])}, "more than 200 reroutes"),
        ({"9": _node("Note")}, "no node of its graph saves an image"),
    ],
)
def test_a_graph_that_is_not_plain_is_refused_by_the_node_in_the_way(nodes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotCarriedOver) as refused:
        _comfy(nodes)
    assert reason in str(refused.value)


def test_an_advanced_sampler_must_walk_its_whole_schedule() -> None:
    inputs = {**GRAPH["3"]["inputs"], "noise_seed": 9, "add_noise": "enable", "start_at_step": 0, "end_at_step": 10000}
    assert _comfy({"3": _node("KSamplerAdvanced", **inputs)}).row["seed"] == 9
    with pytest.raises(NotCarriedOver, match="walks steps 0 to 15 of 20"):
        _comfy({"3": _node("KSamplerAdvanced", **inputs | {"end_at_step": 15})})


def test_what_only_changes_the_model_is_passed_over_and_named() -> None:
    patched = {"13": _node("FreeU_V2", model=["10", 0], b1=1.1)}
    found = _comfy(patched, {"3": {"model": ["13", 0], "seed": 2**64 - 1}, "10": {"strength_clip": 0.2}})
    assert found.row["loras"][-1] == {"name": "sub\\film.safetensors", "scale": 0.8, "text_scale": 0.2}
    assert [note.split(":")[0] for note in found.left_out] == [
        f"seed {2**64 - 1}",
        "node 'FreeU_V2' (13), which changes the model",
    ]


STYLER = _node("SDXLPromptStyler", text_positive="a fox", text_negative="blurry", style="cinema")


@pytest.mark.parametrize(
    "node",
    [
        STYLER,
        _node("StringConcatenate", string_a="a fox", string_b="in the snow", delimiter=", "),
        _node("Text Concatenate", delimiter=", ", text_a="a fox", text_b="snow"),
        _node("StringFunction|pysssss", action="append", text_a="a fox", text_b="snow"),
        _node("Text Find and Replace", text="a dog", find="dog", replace="fox"),
        _node("TextToLowercase", text="A FOX"),
        _node("Random Prompt", text="{a|b}"),
    ],
    ids=lambda node: node["class_type"],
)
def test_a_node_that_computes_a_text_is_in_the_way(node: dict[str, Any]) -> None:
    with pytest.raises(NotCarriedOver, match="computes text of node 'CLIPTextEncode'"):
        _comfy({"20": node})


@pytest.mark.parametrize(
    ("node", "field", "wanted"),
    [
        (_node("Text Multiline", text="a fox"), "prompt", "a fox"),
        (_node("PrimitiveStringMultiline", value="a fox"), "prompt", "a fox"),
        (_node("ttN text", text="a fox"), "prompt", "a fox"),
        (_node("ShowText|pysssss", text=["22", 0], text_0="an older fox"), "prompt", "a wolf"),
        (_node("Seed (rgthree)", seed=7), "seed", 7),
        (_node("easy seed", seed=7, control_after_generate="fixed"), "seed", 7),
        (_node("Constant Number", number_type="integer", number=7), "seed", 7),
        (_node("CR Integer", value=7), "seed", 7),
        (_node("ImpactInt", value=7), "seed", 7),
    ],
    ids=lambda value: value["class_type"] if isinstance(value, dict) else "",
)
def test_a_node_that_holds_one_value_is_read(node: dict[str, Any], field: str, wanted: object) -> None:
    nodes = {"20": node, "22": _node("PrimitiveString", value="a wolf")}
    if field == "prompt":
        row = _comfy(nodes).row
    else:
        row = _comfy({"22": nodes["22"], "23": node}, {"3": {"seed": ["23", 0]}, "6": {"text": "a"}}).row
    assert row[field] == wanted


def test_a_lora_acts_on_what_it_stands_before() -> None:
    of_text = _comfy(inputs={"3": {"model": ["12", 0]}}).row["loras"]
    assert of_text[0] == {"name": "grain.safetensors", "scale": 0.5}
    assert of_text[1] == {"name": "sub\\film.safetensors", "scale": 0.0, "text_scale": 0.8}
    of_model = _comfy(inputs={"11": {"clip": ["4", 1]}}).row["loras"]
    assert [lora["text_scale"] for lora in of_model] == [0.0, 0.0]
    found = _comfy(inputs={"7": {"clip": ["4", 1]}})
    assert found.row["loras"][0] == {"name": "grain.safetensors", "scale": 0.5}
    assert found.left_out[-1].startswith("LoRAs of the negative prompt's text encoders")


INVOKEAI: dict[str, Any] = {
    "app_version": "5.6.0",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a tower++",
    "negative_prompt": "",
    "positive_style_prompt": "oil",
    "negative_style_prompt": "",
    "width": 1024,
    "height": 768,
    "seed": 11,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "k", "hash": "blake3:1", "name": "juggernaut", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"name": "film"}, "weight": 0.75}],
    "vae": {"name": "vae-fix"},
}


def test_a_file_of_invokeai_becomes_a_row() -> None:
    found = _of(invokeai_metadata=json.dumps(INVOKEAI))
    assert (found.program, found.model, found.left_out) == ("InvokeAI 5.6.0", "juggernaut", ("vae vae-fix",))
    assert found.row["loras"] == [{"name": "film", "scale": 0.75}]
    wanted = {"prompt": "a tower++", "prompt_2": "oil", "negative_prompt": None, "seed": 11, "scheduler": "dpmpp_2m_k"}
    assert wanted.items() <= found.row.items()
    with pytest.raises(NotCarriedOver, match="generation_mode 'sdxl_img2img'"):
        _of(invokeai_metadata=json.dumps(INVOKEAI | {"generation_mode": "sdxl_img2img"}))


def test_older_files_of_invokeai_become_rows() -> None:
    image = {"prompt": [{"prompt": "a tower [fog, rain]", "weight": 1.0}], "steps": 50, "seed": 3, "sampler": "k_lms"}
    given = {"app_version": "2.3.0", "model_weights": "sd", "image": image | {"type": "txt2img", "cfg_scale": 7}}
    old = _of(sd_metadata=json.dumps(given))
    dream = _of(Dream='"a tower [fog, rain]" -s 50 -S 3 -W 512 -H 768 -C 7 -A k_lms -U 4 0.75')
    for found in (old, dream):
        wanted = {"prompt": "a tower", "negative_prompt": "fog, rain", "steps": 50, "seed": 3, "scheduler": "k_lms"}
        assert wanted.items() <= found.row.items()
    assert (old.left_out, dream.left_out) == ((), ("-U 4 0.75",))
    assert (dream.row["width"], dream.row["height"], dream.row["guidance_scale"]) == (512, 768, 7.0)


FOOOCUS: dict[str, Any] = {
    "base_model": "juggernautXL_v8",
    "base_model_hash": "aeb7e9e689",
    "full_prompt": ["cinematic still a tower", "a tower, sharp"],
    "full_negative_prompt": ["anime", "blur"],
    "prompt": "a tower",
    "negative_prompt": "",
    "guidance_scale": 4,
    "loras": [["offset.safetensors", 0.1, "ab"]],
    "lora_combined_1": "offset : 0.1",
    "resolution": "(1152, 896)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "123",
    "sharpness": 2,
    "steps": 30,
    "styles": "['Fooocus V2']",
    "version": "Fooocus v2.5.5",
    "metadata_scheme": "fooocus",
}


def test_both_schemes_of_fooocus_become_rows() -> None:
    found = _of(parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus")
    assert (found.program, found.model_hash, found.left_out) == ("Fooocus v2.5.5", "aeb7e9e689", ("sharpness 2",))
    wanted = {
        "prompt": "cinematic still a tower BREAK a tower, sharp",
        "negative_prompt": "anime BREAK blur",
        "width": 1152,
        "height": 896,
        "seed": 123,
        "scheduler": {"name": "dpmpp_2m_sde_gpu", "schedule": "karras"},
        "loras": [{"name": "offset.safetensors", "scale": 0.1}],
    }
    assert wanted.items() <= found.row.items()
    scheme = A1111.replace("Version: v1.10.1", "Version: Fooocus v2.5.5")
    assert _of(parameters=scheme, fooocus_scheme="a1111").program == "Fooocus v2.5.5"


def test_a_file_of_novelai_becomes_a_row() -> None:
    comment = {"steps": 28, "sampler": "k_euler", "seed": 4, "scale": 5.0, "uc": "blur", "noise_schedule": "karras"}
    found = _of(Software="NovelAI", Description="{tower}", Comment=json.dumps(comment), Source="Stable Diffusion XL")
    wanted = {"prompt": "(tower:1.05)", "negative_prompt": "blur", "scheduler": "k_euler karras", "seed": 4}
    assert wanted.items() <= found.row.items()
    assert found.row["syntax"] == "a1111"
    assert found.left_out == ()
    plain = _of(Software="NovelAI", Description="a (tower)", Comment=json.dumps(comment))
    assert (plain.row["prompt"], "syntax" in plain.row) == ("a (tower)", False)


def test_weights_of_novelai_are_those_of_a1111_and_its_letters_stay_letters() -> None:
    text = "a {{tall}} (old) tower, [fog], {a [b] c}, AND }sea {open"
    comment = {"steps": 28, "sampler": "k_euler", "seed": 4, "scale": 5.0, "uc": "[blur]"}
    row = _of(Software="NovelAI", Description=text, Comment=json.dumps(comment)).row
    assert row["negative_prompt"] == "(blur:0.95238)"
    (read,) = a1111.read(row["prompt"], 20, inversions=NO_INVERSIONS)
    (part,) = read.schedule[0].parts
    assert isinstance(part, Part)
    spans = [(span.text, round(span.weight, 4)) for span in part.spans if isinstance(span, Span)]
    assert spans == [
        ("a ", 1.0),
        ("tall", 1.1025),
        (" (old) tower, ", 1.0),
        ("fog", 0.9524),
        (", ", 1.0),
        ("a ", 1.05),
        ("b", 1.0),
        (" c", 1.05),
        (", AND sea ", 1.0),
        ("open", 1.05),
    ]


def test_what_no_row_can_say_is_named_by_its_program() -> None:
    with pytest.raises(NotCarriedOver, match="it is SwarmUI's"):
        _of(parameters='{"sui_image_params": {"prompt": "x"}}')
    assert foreign_picture(png_with(Comment="made with GIMP")) is None


def _folder(folder: Path) -> Path:
    for name in ("deeper", "thumbnails"):
        (folder / name).mkdir()
    (folder / "a.png").write_bytes(png_with(parameters=A1111))
    (folder / "deeper" / "a.jpg").write_bytes(commented("JPEG", A1111, "unicode"))
    (folder / "none.png").write_bytes(png_with(Comment="x"))
    (folder / "thumbnails" / "t.png").write_bytes(png_with(Comment="x"))
    (folder / "notes.md").write_text("not a picture")
    return folder


def test_a_folder_is_a_prompt_set_whose_rows_render_what_its_pictures_say(tmp_path: Path) -> None:
    source = open_prompts(str(_folder(tmp_path)), input_format=None, bucket=None, models=("sd_xl_base_1.0",))
    items = [item for _, item in source.rows]
    rows = [item for item in items if isinstance(item, dict)]
    assert [row["custom_id"] for row in rows] == ["a", "a-2"]
    assert {(row["model"], row["highres"]["mode"]) for row in rows} == {("sd_xl_base_1.0", "direct")}
    read = [Row.model_validate(row) for row in rows]
    assert {(row.width, row.height, row.seed, row.steps) for row in read} == {(832, 1216, 7, 20)}
    warned = [item.message for item in items if isinstance(item, RowWarning)]
    assert sum("Face restoration: CodeFormer" in message for message in warned) == 2
    [refused] = [item.message for item in items if isinstance(item, RowError)]
    assert "none.png carries no record" in refused


def test_what_a_system_keeps_beside_pictures_is_none(tmp_path: Path) -> None:
    folder = tmp_path / ".studio" / "hill"
    for name in (
        "hill.png",
        "._hill.png",
        ".Trashes/hill.png",
        "@eaDir/hill.png",
        "__MACOSX/hill.png",
        "deep/hill.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no picture" if name.startswith("._") else png_with(parameters=A1111))
    found = picture_rows([folder], refused=lambda _path, why: pytest.fail(why))
    assert [one.path.relative_to(folder).as_posix() for one in found] == ["deep/hill.png", "hill.png"]


def test_a_sampler_that_there_is_none_of_is_left_out_and_the_nearest_named(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for given, kept in (("dpmpp_2m_sde_gpu", True), ("lms", False)):
        path.write_bytes(png_with(prompt=json.dumps(GRAPH).replace("dpmpp_2m", given)))
        [found] = picture_rows([path], refused=lambda _path, why: pytest.fail(why))
        assert ("scheduler" in found.row) == kept
        assert any("LMS cannot be used" in note for note in found.notes) != kept
        Row.model_validate(found.row)


def test_extract_says_file_by_file_what_it_leaves_out(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["extract", str(_folder(tmp_path))], standalone_mode=False)
    assert done.return_value == 3
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [7, 7]
    said = f"{tmp_path}/a.png (A1111 v1.10.1): not carried over: "
    assert f"{said}Face restoration: CodeFormer" in done.stderr
    assert f"{said}model sd_xl_base_1.0 (31e35c80fc)" in done.stderr
    assert f"left out: {tmp_path}/none.png carries no record" in done.stderr
