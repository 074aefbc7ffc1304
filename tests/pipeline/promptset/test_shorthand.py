"""Short texts for values that are objects, as cells of tables and options of the command line hold them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.promptset.fields import shorthand
from pipeline.promptset.fields.row import Options, Row
from pipeline.promptset.names.samplers import scheduler_of


@pytest.mark.parametrize(
    ("field", "texts", "value"),
    [
        ("size", ["1024", " 1024 ", 1024, "1024x1024"], [1024, 1024]),
        ("target_size", ["1024", 1024], [1024, 1024]),
        ("size", ["1024x1536", "1024X1536", "1024×1536", " 1024 x 1536 ", "[1024, 1536]"], [1024, 1536]),  # noqa: RUF001
        ("original_size", ["512x768"], (512, 768)),
        ("crop", ["0,64", "0x64", "[0, 64]"], [0, 64]),
        ("aspect", ["16:9", "16/9", "16x9", "1.777778"], 16 / 9),
        ("scheduler", ["DPM++ 2M Karras", '{"name": "dpm++ 2m karras"}'], "DPM++ 2M Karras"),
        (
            "scheduler",
            ["DPM++ 2M, solver_order=3, use_karras_sigmas=true"],
            {"name": "DPM++ 2M", "settings": {"solver_order": 3, "use_karras_sigmas": True}},
        ),
        (
            "loras",
            ["film:0.8, grain", '[{"name": "film", "scale": 0.8}, "grain"]'],
            [{"name": "film", "scale": 0.8}, "grain"],
        ),
        ("loras", ["film", "film:1", "film,"], [{"name": "film"}]),
        ("loras", ["", "[]"], []),
        ("highres", ["refine", "REFINE", '{"mode": "refine"}'], {"mode": "refine"}),
        (
            "highres",
            ["refine, strength=0.4, steps=20, base_px=768", "refine, strength=0.4, steps=20, base_size=768"],
            {"mode": "refine", "strength": 0.4, "steps": 20, "base_px": 768},
        ),
        ("format", ["jpeg", "JPG", "jpg"], "jpeg"),
        ("long_prompt", ["Chunk"], "chunk"),
    ],
)  # fmt: skip
def test_a_text_means_the_same_as_the_object(field: str, texts: list[Any], value: Any) -> None:
    wanted = getattr(Options.model_validate({field: value}), field)
    for text in texts:
        found = getattr(Options.model_validate({field: text}), field)
        assert found == (pytest.approx(wanted) if field == "aspect" else wanted)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("size", "1024 px", "'1024 px' found; 1024x1536, \\[1024, 1536\\], or 1024 for a square, wanted"),
        ("size", "12", "12 found; 64 to 16384 pixels wanted"),
        ("size", True, "True found"),
        ("crop", "64", "left and top"),
        ("size", [1024, 1536, 8], "found"),
        ("size", [1024.0, 1536], "found"),
        ("size", "1024x9", "9 found; 64 to 16384 pixels wanted"),
        ("size", "[1024", "begins like JSON and is none"),
        ("original_size", "0x64", "0x64 found; 1 to 16384"),
        ("crop", "-1,0", "left and top"),
        ("aspect", "0:9", "found; width through height wanted"),
        ("aspect", "16:0", "found; width through height wanted"),
        ("aspect", 65.0, "65.0 found"),
        ("aspect", 10**400, "found; width through height wanted"),
        ("aspect", float("nan"), "nan found"),
        ("highres", "refine, mode=direct", "names two modes"),
        ("aspect", True, "True found"),
        ("aspect", "nan", "'nan' found"),
        ("scheduler", 7, "7 found; a name"),
        ("scheduler", {"settings": {}}, "a name as"),
        ("scheduler", {"name": "Euler", "steps": 3}, "a name as"),
        ("scheduler", "Euler, karras", "'karras' found; NAME, KEY=VALUE, KEY=VALUE wanted"),
        ("loras", "film:much", "'film:much' found; NAME or NAME:SCALE wanted"),
        ("loras", "film, film:0.5", "'film' is there twice"),
        ("loras", "film:5", "less than or equal to 4"),
        ("loras", "film:nan", "finite number"),
        ("loras", 5, "5 found; LoRAs wanted, as film:0.8, grain"),
        ("loras", [f"l{n}" for n in range(17)], "at most 16"),
        ("highres", True, "True found; auto, direct, refine or cascade wanted"),
        ("highres", [2], "found; auto, direct, refine or cascade wanted"),
        ("syntax", "midjourney", "'none', 'a1111', 'comfy' or 'compel'"),
        ("highres", "refined", "'auto', 'direct', 'refine' or 'cascade'"),
        ("highres", "refine, strength=2", "less than or equal to 1"),
        ("highres", "refine, power=2", "Extra inputs"),
        ("format", "bmp", "'png', 'jpeg' or 'webp'"),
        ("strip_metadata", "yes", "valid boolean"),
    ],
)
def test_a_text_that_means_nothing_is_refused_with_the_form_that_is_wanted(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Options.model_validate({field: value})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"size": "64x64", "width": 64}, "size: given with width; one way"),
        ({"size": "64x64", "aspect": "1:1"}, "size: given with aspect"),
        ({"width": 64, "height": 64, "aspect": "1:1"}, "aspect: given with width and height"),
        ({"width": 64, "megapixels": 1.0}, "megapixels: given with a side"),
        ({"width": 64, "aspect": "1:1", "megapixels": 1.0}, "megapixels: given with a side"),
    ],
)
def test_a_size_that_is_said_in_two_ways_is_refused(row: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Row.model_validate({"prompt": "p"} | row)


def test_a_scheduler_object_is_checked_like_its_text() -> None:
    assert shorthand.scheduler(scheduler_of("Euler")) == scheduler_of("Euler")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("999, 845,730", (999.0, 845.0, 730.0)),
        ([999, 0.5], (999.0, 0.5)),
        ("[999, 1]", (999.0, 1.0)),
    ],
)
def test_timesteps_are_numbers_that_fall(given: Any, found: tuple[float, ...]) -> None:
    assert shorthand.timesteps(given) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "'' found; numbers wanted"),
        ([], "1 to 1000 numbers wanted"),
        ([1000, 0], "1000 to 0 found; numbers from 999 to 0 wanted"),
        ([5, 5], "5, 5 found at place 1; each wanted smaller"),
        ([5, 7], "5, 7 found"),
        ([5, True], "True found; numbers wanted"),
        ([float("nan")], "nan found"),
        ("a, b", "'a' found"),
        (7, "7 found; 1 to 1000 numbers"),
        ([1] * 1001, "1 to 1000 numbers wanted"),
    ],
)
def test_timesteps_that_are_none_are_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        shorthand.timesteps(given)


def test_sigmas_end_above_nothing() -> None:
    assert shorthand.sigmas("14.6, 3, 0") == shorthand.sigmas([14.6, 3]) == (14.6, 3.0)
    for given in ([0], [3, -1], [1e7, 1]):
        with pytest.raises(ValueError, match="sigmas above 0"):
            shorthand.sigmas(given)


TWENTY = ["BASE", *(f"IN{n:02}" for n in range(9)), "M00", *(f"OUT{n:02}" for n in range(9))]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (
            [1, 0.5] * 6,
            dict.fromkeys(TWENTY, 0.0)
            | dict(zip(["BASE", "IN04", "IN05", "IN07", "IN08", "M00", *TWENTY[11:17]], [1.0, 0.5] * 6, strict=True)),
        ),
        (",".join(map(str, range(20))), dict(zip(TWENTY, map(float, range(20)), strict=True))),
        (list(range(26)), dict(zip(TWENTY, [*range(10), 13, *range(14, 23)], strict=True))),
        ({"mid": 0.5, "in04": 1, "up_blocks.0": 0}, {"M00": 0.5, "IN04": 1, "up_blocks.0": 0}),
        ('{"BASE": 0}', {"BASE": 0}),
        (
            {"down": 0.5, "up": {"block_1": [0, 1, 2]}, "mid": [3]},
            {
                f"down_blocks.{block}.{kind}.{n}": 0.5
                for block in (1, 2)
                for kind in ("attentions", "resnets")
                for n in (0, 1)
            }
            | {"down_blocks.1.downsamplers.0": 0.5, "up_blocks.1.upsamplers.0": 0, "mid_block.attentions.0": 3}
            | {f"up_blocks.1.{kind}.{n}": n for kind in ("attentions", "resnets") for n in (0, 1, 2)},
        ),
    ],
)
def test_block_weights_of_web_uis_are_an_object_by_block(given: object, found: dict[str, float]) -> None:
    assert shorthand.lora_blocks(given) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"down": {"block_0": 1}}, "'block_0' found in down; block_1 and block_2 wanted"),
        ({"up": {"block_0": [1, 2]}}, "2 scales found in up.block_0; 3 wanted"),
        ({"unet": {"middle": 1}}, "'middle' found in scales by block"),
    ],
)
def test_scales_of_diffusers_for_blocks_that_sdxl_does_not_have_are_refused(given: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        shorthand.lora_blocks(given)


@pytest.mark.parametrize("given", [[1] * 18, "1,2", "a," * 11 + "b", 3, [None] * 12])
def test_other_numbers_of_block_weights_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"block weights"):
        shorthand.lora_blocks(given)


def test_a_lora_of_a_row_has_blocks_and_says_which_it_does_not_know() -> None:
    row = Row.model_validate({"prompt": "x", "loras": [{"name": "film", "text_scale": 0, "blocks": [1] * 12}]})
    assert row.loras[0].blocks["OUT05"] == 1
    assert row.loras[0].blocks["OUT06"] == 0
    assert "blocks" not in Row(prompt="x", loras="film").model_dump_json(include={"loras"})
    with pytest.raises(ValueError, match="'XX9' found; a block wanted: BASE, IN04"):
        Row.model_validate({"prompt": "x", "loras": [{"name": "film", "blocks": {"XX9": 1}}]})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ComfyUI", "comfy"),
        ("automatic1111", "a1111"),
        (" Forge", "a1111"),
        ("InvokeAI", "compel"),
        ("literal", "none"),
    ],
)
def test_a_syntax_goes_by_the_name_of_its_program(name: str, meant: str) -> None:
    assert Options.model_validate({"syntax": name}).syntax == meant
