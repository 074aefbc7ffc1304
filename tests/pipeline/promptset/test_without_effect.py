"""Fields that decide nothing beside others: each is a warning by its name, and no field is silently left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from pipeline.deployment.allowed import AllowedControlNet, AllowedIPAdapter, AllowedLora, AllowedModel
from pipeline.inputs.gathered import InputPictures
from pipeline.promptset.decisions.without_effect import without_effect
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.formats.source import Source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment, noise

MODELS = {
    "demo": AllowedModel(revision="r", native_px=96),
    "refined": AllowedModel(revision="r", native_px=96, refiner_switch_at=0.6),
}
IMAGE = {"image": "a.png"}
MASKED = IMAGE | {"mask": "mask.png"}
REGION = MASKED | {"only_masked": True}
OFF = {"guidance_scale": 1.0}
LARGE = {"size": "192x192"}
LATE = LARGE | {"guidance_interval": [0.6, 1.0]}
CONTROL = {"control": [{"model": "canny", "image": "a.png"}]}
REFERENCE = {"reference": [{"adapter": "face", "image": "a.png"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise(96, 96).save(tmp_path / "a.png")
    mask = Image.new("L", (96, 96))
    mask.paste(255, (40, 40, 60, 60))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def _found(
    folder: Path, row: dict[str, Any], defaults: dict[str, Any] | None = None, **changes: Any
) -> tuple[ResolvedRow, list[tuple[str | None, str]]]:
    validation = Validation("rows", inputs=InputPictures([folder], keep=folder))
    deployed = deployment(
        models=MODELS,
        images_in=True,
        masks=True,
        mask_rounds=True,
        control=True,
        references=True,
        controlnets={"canny": AllowedControlNet()},
        ip_adapters={"face": AllowedIPAdapter()},
        loras={"film": AllowedLora()},
        **{"highres_attention": "whole"} | changes,
    )
    source = Source("rows", iter([(1, {"prompt": "a cat", "model": "demo"} | row)]))
    rows = list(resolved_rows(source, Options.model_validate(defaults or {}), deployed, validation, batch_seed=1))
    assert rows, str(validation.errors[0])
    return rows[0], [(one.field, one.message) for one in validation.warnings]


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        (OFF | {"negative_prompt": "blurry"}, "negative_prompt", "guidance is off"),
        (OFF | {"negative_prompt_2": "blurry"}, "negative_prompt_2", "guidance is off"),
        (OFF | {"guidance_rescale": 0.5}, "guidance_rescale", "guidance is off"),
        (OFF | {"guidance_interval": [0.2, 0.8]}, "guidance_interval", "guidance is off"),
        (OFF | {"negative_crop": [8, 8]}, "negative_crop", "guidance is off"),
        ({"scheduler": "LCM", "negative_prompt": "x"}, "negative_prompt", "guidance is off"),
        ({"highres": {"window_px": 64}}, "highres", "window_px found, and the picture is rendered in one pass"),
        (LARGE | {"highres": "direct, strength=0.4, base_px=64"}, "highres", "strength, base_px found"),
        ({"highres": {"switch_at": 0.3}}, "highres", "switch_at found, and the picture is no cascade"),
        (IMAGE | {"highres": {"steps": 5}}, "highres", "steps found, and the picture is rendered in one pass"),
        (REGION | {"highres": {"attention": "windows"}}, "highres", "attention found"),
        (REGION | {"highres": {"base_px": 64}}, "highres", "base_px found"),
        (LATE | {"highres": "cascade"}, "guidance_interval", "begins at 0.6, and its smallest size, .*, ends at 0.6;"),
        (
            IMAGE | LARGE | {"highres": "refine, strength=0.2"},
            "highres",
            "strength found, and the picture becomes larger in one pass",
        ),
        (CONTROL | {"model": "refined"}, "control", "the refiner, which takes over at 0.6"),
        (REFERENCE | {"model": "refined"}, "reference", "the refiner, which takes over at 0.6"),
        ({"loras": ["film"], "model": "refined"}, "loras", "the refiner, which takes over at 0.6"),
    ],
)
def test_what_decides_nothing_is_a_warning_by_its_field(
    folder: Path, row: dict[str, Any], field: str, message: str
) -> None:
    _, ((found, text),) = _found(folder, row)
    assert found == field
    assert re.search(message, text)


@pytest.mark.parametrize(
    "row",
    [
        OFF | {"negative_prompt": ""},
        {"guidance_scale": 1.1, "negative_prompt": "blurry", "guidance_interval": [0.2, 0.8]},
        OFF | {"syntax": "a1111", "prompt": "a cat AND a hill", "negative_prompt": "blurry"},  # has a negative half
        LARGE | {"highres": "refine, strength=0.4, window_px=64, guidance_scale=1, enlargement=latents"},
        LARGE | {"highres": "cascade, switch_at=0.5, base_px=96"},
        LATE | {"highres": "cascade, switch_at=0.7"},
        LATE | {"highres": "cascade, guidance_scale=3"},
        IMAGE | {"size": "288x288", "highres": {"strength": 0.4, "window_px": 64}},
        IMAGE | LARGE | {"highres": "refine, window_px=64"},
        CONTROL | REFERENCE | {"model": "refined", "refiner_switch_at": 1},
        REGION | {"mask_padding": 8, "masked_size": "96x96", "mask_rounds": 2, "mask_feather": 4},
    ],
)
def test_what_decides_something_is_not(folder: Path, row: dict[str, Any]) -> None:
    assert not _found(folder, row)[1]


@pytest.mark.parametrize(
    ("row", "defaults", "field"),
    [
        (IMAGE, {"mask_grow": 4}, "mask_grow"),
        (IMAGE, {"only_masked": True}, "only_masked"),
        (MASKED, {"masked_size": "96x96"}, "masked_size"),
        (OFF, {"negative_prompt": "blurry"}, "negative_prompt"),
    ],
)
def test_what_holds_for_all_rows_is_a_warning_where_it_decides_nothing(
    folder: Path, row: dict[str, Any], defaults: dict[str, Any], field: str
) -> None:
    assert [name for name, _ in _found(folder, row, defaults)[1]] == [field]
    assert not _found(folder, MASKED | {"only_masked": True, "guidance_scale": 3.0}, defaults)[1]


def test_an_interval_after_the_guided_size_of_a_cascade_for_all_rows_is_a_warning(folder: Path) -> None:
    assert [name for name, _ in _found(folder, LATE, {"highres": "cascade"})[1]] == ["guidance_interval"]
    assert not _found(folder, LARGE, {"highres": "cascade"})[1]


def test_options_of_large_pictures_that_hold_for_all_rows_wait_for_one_silently(folder: Path) -> None:
    assert not _found(folder, {}, {"highres": "auto, window_px=64, strength=0.4"})[1]


@pytest.mark.parametrize("field", ["resync", "norm_mode", "most_work", "settling_steps"])
def test_an_exact_deployment_displaces_nothing(folder: Path, field: str) -> None:
    said = {field: "stale" if field == "norm_mode" else 2}
    assert not _found(folder, said)[1]
    _, ((found, message),) = _found(folder, said, exact=True)
    assert (found, "the deployment is exact" in message) == (field, True)


@pytest.mark.parametrize("field", ["norm_mode", "settling_steps"])
def test_residuals_are_waited_for_whatever_a_row_says_of_lateness(folder: Path, field: str) -> None:
    said = {field: "stale" if field == "norm_mode" else 5}
    _, ((found, message),) = _found(folder, said, exchange="residual")
    assert (found, "exchanges residuals" in message) == (field, True)
    assert not _found(folder, {"resync": 0.1}, exchange="residual")[1]


def test_refine_and_its_windows_hold_for_a_picture_that_becomes_larger_in_one_pass(folder: Path) -> None:
    row, _ = _found(folder, IMAGE | LARGE | {"highres": "refine, window_px=64"})
    assert (row.highres.mode.value, row.later_passes.window_px) == ("refine", 64)
    plain, _ = _found(folder, IMAGE | LARGE)
    assert (plain.highres.mode.value, plain.later_passes.window_px) == ("direct", None)


def test_most_rows_are_not_looked_at_twice(folder: Path) -> None:
    row, _ = _found(folder, {"negative_prompt": "blurry"})
    with mock.patch.object(Options, "explicit_values", side_effect=AssertionError):
        assert not without_effect(Row(prompt="a cat", negative_prompt="x"), Options(), row, deployment())
