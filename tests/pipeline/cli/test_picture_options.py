"""The options of a picture on the command line: one for each field, meaning what the field means in a row."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.commands.promptsets import submit, validate
from pipeline.cli.main import app
from pipeline.cli.picture_options import with_picture
from pipeline.errors import RequestError
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.promptset.fields.row import Options

SAID: dict[str, tuple[list[str], object]] = {
    "prompt_2": (["--prompt-2", "oil"], "oil"),
    "negative_prompt": (["--negative-prompt", ""], ""),
    "negative_prompt_2": (["--negative-prompt-2", "blur"], "blur"),
    "syntax": (["--syntax", "a1111"], "a1111"),
    "clip_skip": (["--clip-skip", "1"], 1),
    "long_prompt": (["--long-prompt", "chunk"], "chunk"),
    "seed": (["--seed", "42"], 42),
    "num_images": (["--num-images", "2"], 2),
    "width": (["--width", "333"], 333),
    "height": (["--height", "777"], 777),
    "size": (["--size", "832x1216"], "832x1216"),
    "aspect": (["--aspect", "16:9"], "16:9"),
    "megapixels": (["--megapixels", "1.5"], 1.5),
    "steps": (["--steps", "7"], 7),
    "guidance_scale": (["--guidance-scale", "3"], 3.0),
    "guidance_rescale": (["--guidance-rescale", "0.7"], 0.7),
    "guidance_interval": (["--guidance-interval", "0.2, 0.8"], (0.2, 0.8)),
    "scheduler": (["--scheduler", "DPM++ 2M Karras, solver_order=3"], "dpm++ 2m karras, solver_order=3"),
    "timesteps": (["--timesteps", "999, 500, 1"], [999, 500, 1]),
    "sigmas": (["--sigmas", "14.6, 3"], [14.6, 3, 0]),
    "model": (["--model", "demo"], "demo"),
    "loras": (["--lora", "film:0.5", "--lora", "grain"], [{"name": "film", "scale": 0.5}, "grain"]),
    "highres": (["--highres", "refine, strength=0.4"], {"mode": "refine", "strength": 0.4}),
    "image": (["--image", "room.png"], "room.png"),
    "strength": (["--strength", "0.4"], 0.4),
    "fit": (["--fit", "stretch"], "stretch"),
    "mask": (["--mask", "alpha"], "alpha"),
    "mask_grow": (["--mask-grow", "4"], 4),
    "mask_feather": (["--mask-feather", "8"], 8),
    "mask_rounds": (["--mask-rounds", "4"], 4),
    "canvas": (["--canvas", "1536x1024+256+0"], [1536, 1024, 256, 0]),
    "only_masked": (["--only-masked"], True),
    "mask_padding": (["--mask-padding", "48"], 48),
    "masked_size": (["--masked-size", "768x1024"], [768, 1024]),
    "control": (
        ["--control", "edges, image=house.png, scale=0.7"],
        [{"model": "edges", "image": "house.png", "scale": 0.7}],
    ),
    "reference": (
        ["--reference", "face, image=anna.png, scale=0.6"],
        [{"adapter": "face", "image": "anna.png", "scale": 0.6}],
    ),
    "refiner_switch_at": (["--refiner-switch-at", "0.7"], 0.7),
    "resync": (["--resync", "0.1"], 0.1),
    "norm_mode": (["--norm-mode", "Stale"], "stale"),
    "most_work": (["--most-work", "1.2"], 1.2),
    "settling_steps": (["--settling-steps", "30"], 30),
    "original_size": (["--original-size", "512x512"], [512, 512]),
    "crop": (["--crop", "0,64"], [0, 64]),
    "target_size": (["--target-size", "512x512"], [512, 512]),
    "negative_original_size": (["--negative-original-size", "512x512"], [512, 512]),
    "negative_crop": (["--negative-crop", "8,8"], [8, 8]),
    "negative_target_size": (["--negative-target-size", "512x512"], [512, 512]),
    "format": (["--format", "webp"], "webp"),
    "quality": (["--quality", "80"], 80),
    "dpi": (["--dpi", "72"], 72),
    "strip_metadata": (["--strip-metadata"], True),
}


def _run(*arguments: str) -> tuple[str, Options]:
    return _levels(*arguments)[:2]


def _levels(*arguments: str) -> tuple[str, Options, Options]:
    seen: list[tuple[str, Options, Options]] = []
    own = typer.Typer()

    @own.command()
    @with_picture
    def render(file: str, picture: Options, overrides: Options, timeout: float | None = None) -> int:
        """Render."""
        seen.append((file, picture, overrides))
        return 0

    done = CliRunner().invoke(own, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return seen[0]


def test_every_field_has_its_example_here() -> None:
    assert list(SAID) == list(Options.model_fields)


@pytest.mark.parametrize("field", SAID)
def test_an_option_says_what_the_field_says(field: str) -> None:
    arguments, value = SAID[field]
    file, picture = _run("p.jsonl", *arguments)
    assert file == "p.jsonl"
    assert picture == Options.model_validate({field: value})
    assert picture.model_fields_set == {field}


def test_what_is_not_said_is_left_to_the_rows() -> None:
    assert _run("p.jsonl")[1].model_fields_set == set()
    assert _run("p.jsonl", "--no-strip-metadata")[1].explicit_values() == {"strip_metadata": False}


def test_options_outrank_a_file_of_defaults_and_a_size_replaces_its_size(tmp_path: Path) -> None:
    path = tmp_path / "batch.json"
    path.write_text('{"num_inference_steps": 9, "cfg_scale": 3, "width": 64, "height": 72}')
    assert _run("p.jsonl", "--defaults", str(path))[1].explicit_values() == {
        "steps": 9,
        "guidance_scale": 3.0,
        "width": 64,
        "height": 72,
    }
    assert _run("p.jsonl", "--defaults", str(path), "--steps", "7", "--size", "128x128")[1].explicit_values() == {
        "steps": 7,
        "guidance_scale": 3.0,
        "size": (128, 128),
    }


@pytest.mark.parametrize(
    ("of_file", "options", "both"),
    [
        ({"aspect": "16:9"}, ["--width", "1920"], {"aspect": 16 / 9, "width": 1920}),
        ({"aspect": "16:9", "megapixels": 1.5}, ["--width", "1920"], {"aspect": 16 / 9, "width": 1920}),
        ({"aspect": "16:9"}, ["--megapixels", "2"], {"aspect": 16 / 9, "megapixels": 2.0}),
        ({"megapixels": 2}, ["--aspect", "1:1"], {"megapixels": 2.0, "aspect": 1.0}),
        ({"width": 64, "height": 72}, ["--aspect", "1:1"], {"aspect": 1.0}),
        ({"width": 64, "height": 72}, ["--width", "128"], {"height": 72, "width": 128}),
        ({"width": 64, "height": 72}, ["--megapixels", "2"], {"megapixels": 2.0}),
        ({"size": "64x72"}, ["--width", "128"], {"width": 128}),
        ({"aspect": "16:9"}, ["--width", "128", "--height", "64"], {"width": 128, "height": 64}),
    ],
)
def test_a_size_option_completes_what_the_file_says(
    tmp_path: Path, of_file: dict[str, Any], options: list[str], both: dict[str, Any]
) -> None:
    path = tmp_path / "batch.json"
    path.write_text(json.dumps(of_file))
    assert _run("p.jsonl", "--defaults", str(path), *options)[1].explicit_values() == both


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "is no JSON"),
        ("[]", "a JSON object of fields wanted"),
        ("{", "is no JSON"),
        ('{"prompt": "p"}', "prompt: unknown field"),
    ],
)
def test_a_file_of_defaults_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "batch.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=words):
        _run("p.jsonl", "--defaults", str(path))
    with pytest.raises(RequestError, match="cannot be read"):
        _run("p.jsonl", "--defaults", str(tmp_path / "nothing.json"))


def test_an_option_that_cannot_be_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(RequestError, match="scheduler: 'Eular' is no scheduler; did you mean Euler"):
        _run("p.jsonl", "--scheduler", "Eular")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--override", "steps=12,size=256x256"], {"steps": 12, "size": (256, 256)}),
        (["--override", "steps=12", "--override", "negative_prompt=7"], {"steps": 12, "negative_prompt": "7"}),
        (["--override", "negative_prompt=blur, rain,steps=3"], {"negative_prompt": "blur, rain", "steps": 3}),
        (["--override", "crop=0,64"], {"crop": (0, 64)}),
        ([], {}),
    ],
)
def test_overrides_are_read_one_by_one(arguments: list[str], expected: dict[str, object]) -> None:
    assert _levels("p.jsonl", *arguments)[2].explicit_values() == expected


def test_a_scheduler_with_settings_is_one_override() -> None:
    overrides = _levels("p.jsonl", "--override", "scheduler=DPM++ 2M, solver_order=3,steps=9")[2]
    assert overrides.scheduler is not None
    assert (overrides.scheduler.settings["solver_order"], overrides.steps) == (3, 9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps", "--override 'steps' found; OPTION=VALUE wanted"),
        ("stepz=3", "stepz: unknown field; did you mean steps?"),
        ("steps=0", "steps: "),
        ("prompt=x", "prompt: unknown field"),
    ],
)
def test_an_override_that_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)):
        _levels("p.jsonl", "--override", text)


def test_keyword_arguments_of_the_client_are_the_same_fields() -> None:
    assert list(get_type_hints(PictureFields)) == list(Options.model_fields)


def test_submit_and_validate_have_the_same_pictures() -> None:
    of = [set(inspect.signature(command).parameters) for command in (submit, validate)]
    assert set(Options.model_fields) <= of[0] & of[1]
    assert "picture" not in of[0] | of[1]


def test_validate_without_a_deployment_takes_any_model_and_lora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TESSERA_REDIS_URL", raising=False)
    monkeypatch.setenv("TESSERA_DATA_DIR", str(tmp_path))
    path = tmp_path / "p.txt"
    path.write_text("a fox\n")
    done = CliRunner().invoke(app, ["validate", str(path), "--lora", "film:0.5", "--model", "sdxl"])
    assert done.exit_code == 0, done.output
    assert "1 row, 1 image, valid for any deployment" in done.output


def test_validate_says_where_an_option_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESSERA_REDIS_URL", raising=False)
    monkeypatch.setenv("TESSERA_DATA_DIR", str(tmp_path))
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a fox", "steps": 20}\n{"prompt": "a hare"}\n')
    done = CliRunner().invoke(app, ["validate", str(path), "--steps", "12"])
    assert "steps: 1 of 2 rows name their own" in done.stderr
    done = CliRunner().invoke(app, ["validate", str(path), "--steps", "12", "--json"])
    assert json.loads(done.stdout)["unreached"] == {"steps": 1}
    done = CliRunner().invoke(app, ["validate", str(path), "--override", "steps=12", "--json"])
    assert "unreached" not in json.loads(done.stdout)
