"""Defaults below and overrides above what rows say: which one a row gets, and which default reaches no row."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promptset.decisions.levels import unreached_lines
from pipeline.promptset.fields.row import Options, ResolvedRow, derived_seed
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment


def _read(
    rows: list[dict[str, Any]], defaults: dict[str, Any] | None = None, overrides: dict[str, Any] | None = None
) -> tuple[list[ResolvedRow], Validation]:
    source = open_source([{"prompt": "p"} | row for row in rows])
    found = Validation(source.name)
    read = resolved_rows(
        source,
        Options.model_validate(defaults or {}),
        deployment(),
        found,
        batch_seed=1,
        overrides=Options.model_validate(overrides or {}),
    )
    return list(read), found


@pytest.mark.parametrize(
    ("row", "overrides", "expected"),
    [
        ({"steps": 20}, {"steps": 12}, {"steps": 12}),
        ({"steps": 20}, {"guidance_scale": 3.0}, {"steps": 20, "guidance_scale": 3.0}),
        ({"seed": 7}, {"seed": -1}, {"seed": derived_seed(1, "row-1")}),
        ({"negative_prompt": "blur"}, {"negative_prompt": None}, {"negative_prompt": None}),
        ({"size": "256x256"}, {"size": "512x256"}, {"width": 512, "height": 256}),
        ({"width": 256, "height": 256}, {"width": 512}, {"width": 512, "height": 256}),
        ({"aspect": "2:1", "height": 256}, {"width": 768}, {"width": 768, "height": 256}),
        ({"width": 256, "height": 256}, {"aspect": "2:1", "megapixels": 0.131072}, {"width": 512, "height": 256}),
        ({"aspect": "2:1"}, {"width": 512}, {"width": 512, "height": 256}),
    ],
)
def test_an_override_replaces_what_the_row_says(
    row: dict[str, Any], overrides: dict[str, Any], expected: dict[str, Any]
) -> None:
    [resolved], found = _read([row], overrides=overrides)
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert (resolved.prompt, resolved.custom_id, found.invalid) == ("p", "row-1", 0)


def test_an_override_comes_over_the_defaults_too_and_leaves_metadata_alone() -> None:
    [row], _found = _read([{"metadata": {"a": 1}, "custom_id": "x"}], {"steps": 9}, {"steps": 12})
    assert (row.steps, row.metadata, row.custom_id) == (12, {"a": 1}, "x")


def test_a_png_for_all_drops_the_quality_that_a_row_had_for_its_jpeg() -> None:
    [row], found = _read([{"format": "jpeg", "quality": 80}], overrides={"format": "png"})
    assert (row.file.format.value, found.invalid) == ("png", 0)


@pytest.mark.parametrize(
    ("rows", "defaults", "expected"),
    [
        ([{"steps": 20}, {"steps": 12}, {}], {"steps": 12}, {"steps": 1}),
        ([{"steps": 20}, {"steps": 21}], {"steps": 12, "guidance_scale": 3.0}, {"steps": 2}),
        ([{"size": "256x128"}, {}], {"size": "128x128"}, {"size": 1}),
        ([{"width": 256}], {"height": 128}, {}),
        ([{"width": 256, "height": 256}], {"height": 128}, {"height": 1}),
        ([{"aspect": "2:1"}], {"megapixels": 0.1}, {}),
        ([{"highres": "direct"}], {"highres": {"strength": 0.4}}, {}),
        ([{"highres": "direct"}], {"highres": "refine"}, {"highres": 1}),
        ([{"negative_prompt": None}, {"negative_prompt": "rain"}], {"negative_prompt": "rain"}, {"negative_prompt": 1}),
        ([{"steps": 20}], {}, {}),
    ],
)
def test_what_a_default_does_not_reach_is_counted(
    rows: list[dict[str, Any]], defaults: dict[str, Any], expected: dict[str, int]
) -> None:
    _rows, found = _read(rows, defaults)
    assert (dict(found.unreached), found.invalid) == (expected, 0)


def test_nothing_is_unreached_where_an_override_has_taken_its_place() -> None:
    _rows, found = _read([{"steps": 20}], {"steps": 12}, {"steps": 9})
    assert not found.unreached


def test_the_line_says_how_many_rows_and_what_to_do() -> None:
    assert list(unreached_lines({"steps": 6}, 9)) == [
        "steps: 6 of 9 rows name their own, which comes first; --override steps=... replaces theirs"
    ]
    assert list(unreached_lines({"steps": 1}, 1)) == [
        "steps: the only row names its own, which comes first; --override steps=... replaces it"
    ]
