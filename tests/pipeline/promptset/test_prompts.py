"""A row's prompts are checked in its syntax, and what they name is on the deployment's lists."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.deployment.allowed import AllowedEmbedding, AllowedLora, AllowedModel
from pipeline.deployment.announcement import Deployment
from pipeline.loras.blocks import SDXL_BLOCKS
from pipeline.picture import Lora, Syntax
from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

LISTS: dict[str, Any] = {
    "models": {name: AllowedModel(revision="r1", native_px=256) for name in ("demo", "other")},
    "loras": {"film": AllowedLora(names=("FilmGrain_v2",)), "ink": AllowedLora(models=("other",))},
    "embeddings": {"dark": AllowedEmbedding(names=("Gloom",)), "odd": AllowedEmbedding(models=("other",))},
}


def _read(
    *rows: dict[str, Any], where: Deployment | None = None, **defaults: Any
) -> tuple[list[ResolvedRow], Validation]:
    found = Validation("p")
    source = open_source([{"prompt": "p"} | row for row in rows])
    lists = where or deployment(**LISTS)
    return list(resolved_rows(source, Options.model_validate(defaults), lists, found, batch_seed=1)), found


def _row(row: dict[str, Any], **others: Any) -> ResolvedRow:
    (resolved,), _ = _read(row, **others)
    return resolved


def _error(row: dict[str, Any], **others: Any) -> str:
    _, found = _read(row, **others)
    return str(found.errors[0])


def test_a_row_without_a_syntax_is_stored_as_before() -> None:
    stored = _row({"prompt": "a fox"}).model_dump(mode="json")
    assert not {"syntax", "embeddings", "clip_skip"} & stored.keys()


def test_the_row_s_syntax_goes_before_the_batch_s_before_the_deployment_s() -> None:
    a1111 = deployment(**LISTS, prompt_syntax="a1111")
    assert _row({}, where=a1111).syntax is Syntax.A1111
    assert _row({}, where=a1111, syntax="comfy").syntax is Syntax.COMFY
    assert _row({"syntax": "none"}, where=a1111, syntax="comfy").syntax is Syntax.NONE
    assert _row({}).syntax is None


def test_a_lora_in_a_prompt_is_one_of_the_row_by_id_file_or_alias() -> None:
    row = _row({"prompt": "<lora:FilmGrain_v2.safetensors:0.5:0.8> a fox", "syntax": "a1111"})
    assert row.loras == (Lora(name="film", scale=0.8, text_scale=0.5),)
    assert row.prompt == "<lora:FilmGrain_v2.safetensors:0.5:0.8> a fox"
    assert _row({"prompt": "<lora:film:0.5><lora:film:0.25>", "syntax": "a1111"}).loras == (
        Lora(name="film", scale=0.75),
    )
    assert _row({"prompt": "withLora(film, 0.5) a", "syntax": "compel"}).loras == (Lora(name="film", scale=0.5),)


def test_a_lora_that_the_row_names_itself_counts_once() -> None:
    row = {"prompt": "<lora:film:0.5> a fox", "syntax": "a1111", "loras": ["FilmGrain_v2:0.7"]}
    assert _row(row).loras == (Lora(name="film", scale=0.7),)


def test_embeddings_are_recorded_by_id() -> None:
    row = _row({"prompt": "a fox, gloom", "negative_prompt": "embedding:dark", "syntax": "a1111"})
    assert row.embeddings == ("dark",)
    assert _row({"prompt": "gloom", "syntax": "comfy"}).embeddings == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "<lora:filmgrain:1>"}, "prompt: <lora:filmgrain> is not on the allow-list; nearest film"),
        ({"prompt": "<lora:film:5>"}, "prompt: <lora:film> with a scale of 5 found; -4 to 4 wanted"),
        ({"prompt": "<lora:ink:1>"}, "loras: 'ink' is for other; the row's model is 'demo'"),
        ({"prompt": "<hypernet:x:1>"}, "prompt: an extra network <hypernet:...> found; hypernetworks are not rendered"),
        ({"prompt": "embedding:drak"}, "prompt: embedding 'drak' is not on the allow-list; nearest dark"),
        ({"prompt": "odd"}, "prompt: embedding 'odd' is for other; the row's model is 'demo'"),
        (
            {"negative_prompt": "(a:1e9)", "syntax": "comfy"},
            "negative_prompt: a weight of 1e+09 found; -100 to 100 wanted",
        ),
        ({"prompt_2": "a AND b"}, "prompt_2: 2 prompts between AND found; as many as in prompt wanted, 1"),
        (
            {"prompt": "a AND b", "guidance_interval": [0.2, 0.8]},
            "guidance_interval: found beside prompts joined",
        ),
        (
            {"prompt": "a :0.5", "guidance_interval": [0.2, 0.8]},
            "guidance_interval: found beside prompts joined",
        ),
        ({"loras": ["flim"]}, "loras: 'flim' is not on the allow-list; nearest film"),
        ({"loras": ["film", "FilmGrain_v2"]}, "loras: 'film' is there twice; add up its scales"),
        ({"syntax": "midjourney"}, "syntax: "),
        ({"clip_skip": 13}, "clip_skip: "),
    ],
)
def test_what_a_prompt_names_wrongly_is_an_error_of_its_field(row: dict[str, Any], message: str) -> None:
    assert _error({"syntax": "a1111"} | row).startswith(f"line 1: {message}")


def test_a_deployment_of_an_earlier_version_is_not_asked_for_what_it_would_ignore() -> None:
    old = deployment(syntaxes=())
    assert "syntax: a1111 found, which the deployment's version 0 does not read" in _error(
        {"syntax": "a1111"}, where=old
    )
    assert "clip_skip: found" in _error({"clip_skip": 1}, where=old)


def test_without_a_deployment_every_name_is_one() -> None:
    row = _row({"prompt": "<lora:any:1> embedding:thing", "syntax": "a1111"}, where=Deployment.any())
    assert (row.loras, row.embeddings) == ((Lora(name="any"),), ("thing",))


def test_syntax_that_is_not_read_is_a_warning_once_a_batch() -> None:
    looks = {"prompt": "a (red:1.3) fox"}
    _, found = _read(looks, {"prompt": "a fox"}, looks, looks | {"syntax": "a1111"}, looks | {"syntax": "none"})
    (warning,) = found.warnings
    assert str(warning).startswith("line 1 (and 1 more): prompt: looks like prompt syntax, as in (word:1.3)")
    assert "syntax: a1111 reads it" in str(warning)
    _, found = _read({"negative_prompt": "x <lora:film:1>", "syntax": "a1111"})
    assert "which syntax a1111 reads as literal text" in str(found.warnings[0])


def test_block_weights_in_a_prompt_are_those_of_the_row_s_lora() -> None:
    twelve = "1,0.5,0,0,0,1,1,1,1,1,1,1"
    tagged = _row({"prompt": f"<lora:film:0.8:lbw={twelve}> a fox", "syntax": "a1111"})
    listed = _row({"prompt": "a fox", "loras": [{"name": "film", "scale": 0.8, "blocks": twelve}]})
    assert tagged.loras == listed.loras
    assert tagged.loras[0].blocks["IN04"] == 0.5
    assert _row({"prompt": "<lora:film:1:lbw=ALL> a fox", "syntax": "a1111"}).loras == (Lora(name="film"),)
    assert not any(_row({"prompt": "<lora:film:1:lbw=none> p", "syntax": "a1111"}).loras[0].blocks.values())


@pytest.mark.parametrize("blocks", ["MIDDLE", "1,0,1", "1,nan" + ",0" * 10, "1,9" + ",0" * 10, "1,x" + ",0" * 10])
def test_block_weights_that_cannot_be_read_say_what_is_wanted(blocks: str) -> None:
    error = _error({"prompt": f"<lora:film:1:lbw={blocks}> a fox", "syntax": "a1111"})
    assert (
        "<lora:film> with block weights that cannot be read found; lbw= wanted with 12, 17, 20 or 26 numbers" in error
    )


def test_presets_are_those_that_everybody_has_and_random_numbers_are_none() -> None:
    inward = _row({"prompt": "<lora:film:0.5:INALL> p", "syntax": "a1111"}).loras[0]
    assert inward == _row({"prompt": "<lora:film:0.5:0.5:lbw=inall> p", "syntax": "a1111"}).loras[0]
    assert (inward.scale, inward.blocks["IN08"], inward.blocks["IN03"], inward.blocks["OUT05"]) == (0.5, 1, 0, 0)
    half = _row({"prompt": "<lora:film:1:lbw=ALL0.5> p", "syntax": "a1111"}).loras[0].blocks
    assert half == dict.fromkeys(SDXL_BLOCKS, 0.5)
    drawn = "<lora:film:1:lbw=1,R" + ",0" * 10 + ">"
    assert "R and U are drawn at random" in _error({"prompt": drawn, "syntax": "a1111"})
    for strange in ("start=5", "step=2-8", "lbwe=ATTNDEEPON", "dyn=4"):
        assert strange.partition("=")[0] in _error({"prompt": f"<lora:film:1:{strange}> p", "syntax": "a1111"})


def test_a_lora_that_is_there_twice_has_one_set_of_block_weights() -> None:
    prompt = "<lora:film><lora:film:1:lbw=NONE> a fox"
    assert "twice with different block weights" in _error({"prompt": prompt, "syntax": "a1111"})


def test_a_lora_or_an_embedding_for_another_base_is_refused_where_a_row_is_read() -> None:
    lists = {"loras": {"old": AllowedLora(base="SD 1.x")}, "embeddings": {"dim": AllowedEmbedding(base="SD 2.x")}}
    where = deployment(**LISTS | lists)
    named = _read({"prompt": "a fox", "loras": ["old"]}, where=where)[1].errors
    tagged = _read({"prompt": "<lora:old:0.5> a fox", "syntax": "a1111"}, where=where)[1].errors
    words = "'old' was made for SD 1.x, not for SDXL; a row without it wanted"
    assert [(error.line, error.field, error.message) for error in named + tagged] == [(1, "loras", words)] * 2
    (error,) = _read({"prompt": "a fox, embedding:dim", "syntax": "comfy"}, where=where)[1].errors
    assert (error.field, error.message) == (
        "prompt",
        "embedding 'dim' was made for SD 2.x, not for SDXL; a prompt without it wanted",
    )
