"""What would fail in the pod is said at validation: texts too long, and sizes that no pod holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints.clip import has_clip_vocabulary
from pipeline.deployment.allowed import AllowedModel
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import ModelSource, Settings
from pipeline.promptset.fields.row import Options
from pipeline.promptset.formats.source import Source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

LONG = "a tall stone tower by the sea " * 12  # 84 tokens
NEEDED: dict[str, Any] = {"redis_url": "redis://localhost", "s3_bucket": "b"}
DEMO = Path(__file__).parents[3] / "models" / "demo"


def _validated(row: dict[str, Any], known: bool | None = True, **changes: Any) -> Validation:
    models = {"demo": AllowedModel(revision="r1", native_px=256, clip_vocabulary=known)}
    found = Validation("x")
    source = Source("x", iter([(1, {"prompt": "a tower"} | row)]))
    list(resolved_rows(source, Options(), deployment(models=models, **changes), found, batch_seed=1))
    return found


@pytest.mark.parametrize("field", ["prompt", "prompt_2", "negative_prompt", "negative_prompt_2"])
@pytest.mark.parametrize("text", [LONG, "日" * 80, "x1" * 40])
def test_a_text_of_too_many_tokens_is_refused_with_what_to_do(field: str, text: str) -> None:
    [error] = _validated({field: text}).errors
    assert error.field == field
    assert "tokens found; the text encoders read 77" in error.message
    assert "set long_prompt to chunk" in error.message


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a tower " * 37},  # 76 tokens
        {"prompt": "(a tower:1.3), " * 15, "syntax": "a1111"},  # 62 tokens without the marks
        {"prompt": "a tower " * 30 + "BREAK " + "a tower " * 30, "syntax": "a1111"},
        {"prompt": LONG, "long_prompt": "chunk"},
        {"prompt": LONG, "long_prompt": "truncate"},
    ],
)
def test_what_the_pod_would_render_is_valid(row: dict[str, Any]) -> None:
    found = _validated(row, syntaxes=("a1111",))
    assert (found.errors, found.warnings, found.rows) == ([], [], 1)


def test_a_negative_prompt_that_is_not_read_may_have_any_length() -> None:
    found = _validated({"negative_prompt": LONG, "guidance_scale": 1.0})
    assert (found.errors, found.rows) == ([], 1)
    assert ["guidance is off" in one.message for one in found.warnings] == [True]


def test_a_part_of_a_prompt_with_syntax_may_be_too_long() -> None:
    [error] = _validated({"prompt": f"(fog:1.2) BREAK {LONG}", "syntax": "a1111"}, syntaxes=("a1111",)).errors
    assert (error.field, "tokens found" in error.message) == ("prompt", True)


def test_where_the_vocabulary_is_not_known_it_is_a_warning_and_where_it_is_another_nothing() -> None:
    found = _validated({"prompt": LONG}, None)
    assert found.rows == 1
    assert ["tokens found" in warning.message for warning in found.warnings] == [True]
    assert _validated({"prompt": LONG}, False).warnings == []


def test_steps_at_which_a_sampler_fails_are_refused_and_warned_of_where_the_spacing_is_the_models() -> None:
    named = {"name": "DPM++ 2M", "settings": {"timestep_spacing": "leading"}}
    [error] = _validated({"scheduler": named, "steps": 999}).errors
    assert (error.field, "fails from 999 on" in error.message) == ("steps", True)
    [warning] = _validated({"scheduler": "DPM++ 2M", "steps": 999}).warnings
    assert (warning.field, "spaced as SDXL's are" in warning.message) == ("steps", True)
    assert _validated({"scheduler": named, "steps": 998}).errors == []
    assert _validated({"scheduler": "Euler", "steps": 1000}).warnings == []


@pytest.mark.parametrize(("side", "refused"), [(1024, False), (2048, True)])
def test_a_size_that_no_pod_holds_is_refused_where_the_settings_say_what_a_gpu_holds(side: int, refused: bool) -> None:
    settings = Settings(**NEEDED, models={"demo": ModelSource(path="/x", revision="r")}, gpus=2, one_gpu_megapixels=1.0)
    announced = Deployment.of(settings, "1")
    assert announced.megapixels_in_memory == 2.0
    errors = _validated({"width": side, "height": side}, megapixels_in_memory=2.0, max_megapixels=64.0).errors
    assert ["hold up to 2 (TESSERA_ONE_GPU_MEGAPIXELS each)" in error.message for error in errors] == [True] * refused
    assert Deployment.of(Settings(**NEEDED, gpus=2), "1").megapixels_in_memory is None


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ({"path": str(DEMO)}, False),
        ({"path": "/not/here/sdxl.safetensors"}, True),
        ({"path": "/not/here/sdxl", "clip_vocabulary": False}, False),
    ],
)
def test_a_deployment_announces_whose_vocabulary_a_model_has(source: dict[str, Any], known: bool) -> None:
    announced = Deployment.of(Settings(**NEEDED, models={"m": ModelSource(revision="r", **source)}), "1")
    assert announced.models["m"].clip_vocabulary is known


def test_the_demo_models_own_vocabulary_is_seen() -> None:
    assert has_clip_vocabulary(DEMO) is False
    assert has_clip_vocabulary(DEMO / "unet") is None
