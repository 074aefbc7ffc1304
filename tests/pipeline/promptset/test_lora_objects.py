"""LoRAs of a row as other tools write them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.picture import Lora
from pipeline.promptset.fields.row import Row
from pipeline.promptset.validate import fields_errors


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"film": 0.5, "grain": 1}, [("film", 0.5, None), ("grain", 1.0, None)]),
        ({"film": {"scale": 0.5, "text_scale": 0.25}}, [("film", 0.5, 0.25)]),
        ({"name": "film", "weight": 0.5}, [("film", 0.5, None)]),
        ([["film", 0.5], "grain"], [("film", 0.5, None), ("grain", 1.0, None)]),
        ([{"path": "film.safetensors", "strength": 0.5}], [("film.safetensors", 0.5, None)]),
        ([{"model": {"key": "a", "name": "film", "base": "sdxl"}, "weight": 0.7}], [("film", 0.7, None)]),
        ([{"lora_name": "film", "strength_model": 0.5, "strength_clip": 0.25}], [("film", 0.5, 0.25)]),
        ("<lora:film:0.5>", [("film", 0.5, None)]),
        ("<lora:film:0.25:0.5>, <lora:grain>", [("film", 0.5, 0.25), ("grain", 1.0, None)]),
    ],
)
def test_loras_of_other_tools_are_loras(written: Any, meant: list[tuple[str, float, float | None]]) -> None:
    row = Row.model_validate({"prompt": "p", "loras": written})
    assert [(one.name, one.scale, one.text_scale) for one in row.loras] == meant


def test_block_weights_of_a_tag_are_those_of_the_lora() -> None:
    row = Row.model_validate({"prompt": "p", "lora": "<lora:film:0.5:lbw=1,0,0,0,0,0,0,0,0,0,0,1>"})
    [own] = Row.model_validate({"prompt": "p", "loras": [{"name": "film", "blocks": "1,0,0,0,0,0,0,0,0,0,0,1"}]}).loras
    assert row.loras == (Lora(name="film", scale=0.5, blocks=own.blocks),)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (5, "5 found; LoRAs wanted, as film:0.8, grain"),
        ([5], "5 found; LoRAs wanted"),
        ([["film", 0.5, 1]], "found; LoRAs wanted"),
        ([{"name": "film", "path": "film"}], "name given twice in a LoRA, as path, too"),
        ("<lora:film:many>", "a LoRA's scale that is no number found"),
        ("<lora:film:0.5> and more", "found; NAME or NAME:SCALE wanted"),
        ({"film": "strong"}, "valid number"),
    ],
)
def test_what_is_no_lora_is_refused_in_words(written: Any, words: str) -> None:
    errors = fields_errors(1, {"prompt": "p", "loras": written}, Row)
    assert words in errors[0].message
