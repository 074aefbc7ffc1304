"""Rows as users write them, and what becomes of what they leave open."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.promptset.decisions.options import Decisions
from pipeline.promptset.decisions.resolve import resolve
from pipeline.promptset.fields.row import Options, ResolvedRow, Row, derived_seed
from pipeline.promptset.fields.values import MAX_IMAGES_PER_ROW, MAX_SEED
from tests.factories import deployment


def _resolved(row: dict[str, Any], defaults: dict[str, Any] | None = None, **deployed: Any) -> ResolvedRow:
    return resolve(
        Row.model_validate({"prompt": "p"} | row),
        Decisions(Options.model_validate(defaults or {}), deployment(**deployed)),
        line=3,
        index=2,
        first_image=5,
        batch_seed=11,
    )


@pytest.mark.parametrize(
    ("row", "defaults", "expected"),
    [
        ({}, {}, None),
        ({}, {"negative_prompt": ""}, ""),
        ({}, {"negative_prompt": "blur"}, "blur"),
        ({"negative_prompt": ""}, {"negative_prompt": "blur"}, ""),
        ({"negative_prompt": None}, {"negative_prompt": "blur"}, None),
        ({"negative_prompt": "rain"}, {"negative_prompt": "blur"}, "rain"),
        ({"negative_prompt": ""}, {}, ""),
    ],
)
def test_no_negative_prompt_and_an_empty_one_stay_apart_at_every_level(
    row: dict[str, Any], defaults: dict[str, Any], expected: str | None
) -> None:
    resolved = _resolved(row, defaults)
    assert resolved.negative_prompt == expected
    assert ResolvedRow.model_validate_json(resolved.model_dump_json()).negative_prompt == expected


@pytest.mark.parametrize(
    ("name", "of_row", "of_batch", "of_deployment"),
    [
        ("width", 64, 128, 256),
        ("height", 72, 128, 256),
        ("steps", 7, 8, 30),
        ("guidance_scale", 0.0, 7.5, 5.0),
        ("guidance_rescale", 0.0, 0.7, 0.0),
        ("num_images", 1, 3, 1),
        ("model", "other", "third", "demo"),
    ],
)
def test_the_row_outranks_what_holds_for_all_which_outranks_the_deployment(
    name: str, of_row: Any, of_batch: Any, of_deployment: Any
) -> None:
    demo = deployment().models["demo"]
    models = {"demo": demo, "other": demo, "third": demo}
    assert getattr(_resolved({name: of_row}, {name: of_batch}, models=models), name) == of_row
    assert getattr(_resolved({}, {name: of_batch}, models=models), name) == of_batch
    assert getattr(_resolved({}, {}, models=models), name) == of_deployment


def test_a_size_that_nobody_gives_is_the_native_one_of_the_rows_model() -> None:
    other = deployment().models["demo"].model_copy(update={"native_px": 512})
    resolved = _resolved({"model": "other", "height": 64}, models=deployment().models | {"other": other})
    assert (resolved.width, resolved.height) == (512, 64)


def test_a_derived_seed_never_changes() -> None:
    """Retries, replays and other releases must come to the same picture."""
    assert [derived_seed(7, "a"), derived_seed(7, "b"), derived_seed(8, "a")] == [
        2195314219,
        3962230518,
        1995818689,
    ]


def test_seeds_follow_from_batch_and_row_id_unless_the_row_says_one() -> None:
    assert _resolved({"custom_id": "a"}).seed == derived_seed(11, "a")
    assert _resolved({}).custom_id == "row-3"
    assert _resolved({}).seed == derived_seed(11, "row-3")
    assert _resolved({"seed": 0}).seed == 0
    assert _resolved({}, {"seed": 42}).seed == 42
    assert _resolved({"seed": 7}, {"seed": 42}).seed == 7
    assert _resolved({"seed": -1}, {"seed": 42}).seed == derived_seed(11, "row-3")
    assert _resolved({"seed": -1, "custom_id": "a"}).seed == derived_seed(11, "a")
    assert _resolved({"seed": MAX_SEED}).seed + MAX_IMAGES_PER_ROW < 2**63


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "a\x00b"}, "prompt"),
        ({"prompt": "a\x1b[2Jb"}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"negative_prompt": "a\x07"}, "negative_prompt"),
        ({"width": 63}, "width"),
        ({"width": 0}, "width"),
        ({"width": -64}, "width"),
        ({"width": 56}, "width"),
        ({"width": 16_392}, "width"),
        ({"width": 64.0}, "width"),
        ({"width": "64"}, "width"),
        ({"width": True}, "width"),
        ({"height": "x"}, "height"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"num_images": 0}, "num_images"),
        ({"num_images": 10**9}, "num_images"),
        ({"num_images": None}, "num_images"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_scale": True}, "guidance_scale"),
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"guidance_interval": [0.8, 0.2]}, "guidance_interval"),
        ({"guidance_interval": "0.2"}, "guidance_interval"),
        ({"guidance_interval": [0, 1.5]}, "guidance_interval"),
        ({"resync": 0}, "resync"),
        ({"norm_mode": "none"}, "norm_mode"),
        ({"most_work": 0.9}, "most_work"),
        ({"settling_steps": -1}, "settling_steps"),
        ({"settling_steps": 2.5}, "settling_steps"),
        ({"seed": -2}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"custom_id": ""}, "custom_id"),
        ({"custom_id": " a"}, "custom_id"),
        ({"custom_id": "a\nb"}, "custom_id"),
        ({"custom_id": "x" * 257}, "custom_id"),
        ({"custom_id": 7}, "custom_id"),
        ({"model": 7}, "model"),
        ({"metadata": {"a": [1]}}, "metadata"),
        ({"metadata": {"a": float("nan")}}, "metadata"),
        ({"metadata": {"a": 2**63}}, "metadata"),
        ({"metadata": {"a": -(2**63) - 1}}, "metadata"),
        ({"metadata": {"a": 10**5000}}, "metadata"),
        ({"metadata": {str(n): n for n in range(65)}}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"promt": "x"}, "promt"),
        ({"custom_id": "x", "hight": 64}, "hight"),
    ],
)
def test_what_cannot_be_rendered_as_written_is_refused_by_field(row: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        Row.model_validate({"prompt": "p"} | row)
    assert {problem["loc"][0] for problem in error.value.errors()} == {field}


@pytest.mark.parametrize(
    ("row", "deployed", "field", "words"),
    [
        ({"width": 4096, "height": 1024}, {}, "width", "4096x1024 is 4.2 megapixels; the deployment renders up to 4"),
        ({"width": 64, "height": 64}, {"layout": "1x2x4"}, "width", "64x64 found.*1x2x4.*at least 128 px"),
        ({"model": "other"}, {}, "model", "'other' is not on the allow-list; allowed are demo"),
        ({"model": "../../etc/passwd"}, {}, "model", "not on the allow-list"),
        ({}, {"default_model": None}, "model", "none given.*allowed are demo"),
        ({}, {"default_model": None, "models": {}}, "model", "none given.*allowed are none"),
    ],
)
def test_what_the_deployment_cannot_render_is_refused_with_its_limits(
    row: dict[str, Any], deployed: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        _resolved(row, **deployed)
    assert error.value.args[0] == field


def test_ids_that_look_like_paths_or_html_are_ids_like_any_other() -> None:
    for custom_id in ("../../etc/passwd", "/root", "<script>alert(1)</script>", "a:b;c", "日本語"):
        assert _resolved({"custom_id": custom_id}).custom_id == custom_id


@pytest.mark.parametrize("prompt", ["", "  ", "\u200b", "\u00a0\ufeff", "\u202e \u2060\u3000"])
def test_a_prompt_of_which_nothing_is_seen_is_empty(prompt: str) -> None:
    with pytest.raises(ValidationError, match="empty; a text wanted"):
        Row.model_validate({"prompt": prompt})
