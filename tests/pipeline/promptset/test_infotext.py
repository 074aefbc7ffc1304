"""Infotexts of the web UIs: fields of a row, and what no field holds."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.picture import MAX_STEPS
from pipeline.promptset.formats.infotext import hires_fields, infotexts_in, is_settings_line, parse_infotext

WEB_UI = """\
a (lighthouse:1.2), <lora:film:0.8>
second line

Negative prompt: blurry, (low quality)
bad
Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 832x1216, Model hash: 31e35c80fc, \
Model: sd_xl_base_1.0, Clip skip: 2, Lora hashes: "film: abc, b: def", ControlNet 0: "preprocessor: canny, weight: 1", \
Civitai resources: [{"type":"checkpoint","id":1},{"type":"lora"}], Version: v1.10.1
Template: a (lighthouse:1.2)
"""
PLAIN = "x\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768"


def _fields(settings: str) -> dict[str, Any]:
    found = parse_infotext(f"x\nSteps: 20, {settings}")
    assert found is not None
    return {key: value for key, value in found.fields.items() if key not in ("prompt", "negative_prompt")}


def test_an_infotext_is_the_fields_of_a_row() -> None:
    found = parse_infotext(WEB_UI)
    assert found is not None
    assert found.fields == {
        "prompt": "a (lighthouse:1.2), <lora:film:0.8>\nsecond line",
        "negative_prompt": "blurry, (low quality)\nbad",
        "steps": 30,
        "scheduler": "DPM++ 2M Karras",
        "guidance_scale": 7.5,
        "seed": 7,
        "width": 832,
        "height": 1216,
        "clip_skip": 2,
    }
    assert found.left_out == ("ControlNet 0: preprocessor: canny, weight: 1",)
    assert (found.model, found.model_hash) == ("sd_xl_base_1.0", "31e35c80fc")


def test_no_negative_prompt_is_null_as_the_web_ui_has_it_for_sdxl() -> None:
    found = parse_infotext(PLAIN)
    assert found is not None
    assert found.fields["negative_prompt"] is None
    assert (found.left_out, found.model) == ((), None)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (
            "Size: 512x512, Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 10, Sampler: Euler",
            {
                "width": 768,
                "height": 768,
                "highres": {"mode": "refine", "base_px": 512, "strength": 0.5, "steps": 20},
                "scheduler": "Euler",
            },
        ),
        (
            "Size: 512x768, Denoising strength: 0.4, Hires resize: 1024x0, Seed: 1",
            {
                "width": 1024,
                "height": 1536,
                "highres": {"mode": "refine", "base_px": 627, "strength": 0.4, "steps": 50},
                "seed": 1,
            },
        ),
        ("Seed: many, CFG scale: nan", {"seed": "many", "guidance_scale": "nan"}),  # a row refuses these
        ("Seed: 1, Size: large", {"seed": 1, "size": "large"}),
    ],
)
def test_settings_that_belong_together_are_read_together(settings: str, fields: dict[str, Any]) -> None:
    assert _fields(settings) == {"steps": 20} | fields


def test_settings_may_be_parted_by_bars() -> None:
    found = parse_infotext("x\nSteps: 20| Seed: 1| Size: 64x64")
    assert found is not None
    assert (found.fields["seed"], found.fields["width"]) == (1, 64)


def test_a_picture_made_from_another_says_so() -> None:
    found = parse_infotext(PLAIN + ", Denoising strength: 0.75, Face restoration: CodeFormer")
    assert found is not None
    assert found.left_out == (
        "Face restoration: CodeFormer",
        "Denoising strength: 0.75 (made from another picture)",
    )


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("Steps: 30, Sampler: Euler", True),
        ("  Steps: 30| Seed: 7", True),
        ("Steps: up a hill, Seed: of doubt", False),
        ("Steps: 30 of a stair", False),
        ("30 steps, Sampler: Euler", False),
        ("", False),
    ],
)
def test_a_line_of_settings_is_told_from_a_prompt(line: str, is_one: bool) -> None:
    assert is_settings_line(line) is is_one
    assert (parse_infotext(f"x\n{line}") is not None) is is_one


def test_infotexts_follow_one_another() -> None:
    text = f"{WEB_UI}\n-----\n\n{PLAIN}\n{PLAIN}\nleft over"
    found = list(infotexts_in(enumerate(text.splitlines(), 1)))
    assert [number for number, _ in found] == [1, 11, 13, 15]
    assert [parse_infotext(one) is not None for _, one in found] == [True, True, True, False]


@pytest.mark.parametrize("piece", ["a" * 60, "a:,", "a: [[", 'a: "b,', "a: {,", ", ", " ", ": "])
def test_settings_without_end_take_no_time(piece: str) -> None:
    """Read once from left to right: a megabyte is a second at most, and no brackets are too deep."""
    found = parse_infotext("x\nSteps: 20, Seed: 1, " + piece * (200_000 // len(piece)))
    assert found is not None
    assert found.fields["seed"] == 1


@pytest.mark.parametrize("size", [(0, 512), (512, 0), (0, 0)])
def test_a_picture_of_no_size_is_not_enlarged(size: tuple[int, int]) -> None:
    assert hires_fields(*size, scale=2.0, resized=(1024, 0), strength=0.5, steps=10) == {}
    assert hires_fields(*size, scale=2.0, resized=(0, 1024), strength=0.5, steps=10) == {}


def test_a_strength_of_next_to_nothing_has_as_many_steps_as_there_may_be() -> None:
    made = hires_fields(512, 512, scale=2.0, resized=(0, 0), strength=5e-324, steps=10)
    assert made["highres"]["steps"] == MAX_STEPS


def test_a_clip_skip_of_1_is_sdxls_own_layer_but_where_tessera_wrote_it() -> None:
    assert "clip_skip" not in _fields("Sampler: Euler, Clip skip: 1, App: SD.Next")
    assert _fields("Sampler: Euler, Clip skip: 1, Version: tessera 1")["clip_skip"] == 1
    assert _fields("Sampler: Euler, Clip skip: 3")["clip_skip"] == 3


@pytest.mark.parametrize("name", ["Schedule type", "Schedule", "Scheduler"])
def test_a_schedule_stands_under_several_names(name: str) -> None:
    assert _fields(f"Sampler: dpmpp_2m, {name}: karras, Seed: 1")["scheduler"] == "dpmpp_2m karras"
