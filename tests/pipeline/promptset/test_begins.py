"""Rows that begin with a picture: size, strength, fit and passes that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.deployment.cost import tera_operations
from pipeline.input_picture import Fit
from pipeline.inputs.gathered import InputPictures
from pipeline.picture import Highres, HighresMode
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.promptset.validate import Validation
from tests.pipeline.promptset.validated import PictureRows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (640, 480), (9, 8, 7)).save(tmp_path / "room.png")
    Image.new("RGB", (512, 512), (9, 8, 7)).save(tmp_path / "square.png")
    return tmp_path


_refused = PictureRows().refused


def _found(folder: Path, *rows: dict[str, Any], **defaults: Any) -> tuple[list[ResolvedRow], Validation]:
    return PictureRows().found(folder, *rows, defaults=defaults)


def test_a_row_without_a_size_has_that_of_its_image(folder: Path) -> None:
    (row,), _ = _found(folder, {"image": "room.png"})
    assert (row.width, row.height, row.strength, row.fit) == (640, 480, 0.6, Fit.FILL)
    assert row.image is not None
    assert (row.image.width, row.image.height, row.image.name) == (640, 480, "room.png")
    again = ResolvedRow.model_validate_json(row.model_dump_json())
    assert again == row


def test_a_row_without_an_image_says_nothing_of_one(folder: Path) -> None:
    (row,), validation = _found(folder, {}, strength=0.4)
    assert not {"image", "strength", "fit"} & row.model_dump(mode="json").keys()
    (warning,) = validation.warnings
    assert "without effect: it has no image" in str(warning)


@pytest.mark.parametrize("size", ["1024x768", "640x480", "641x481", "320x240"])
def test_a_size_of_the_same_shape_needs_no_fit(folder: Path, size: str) -> None:
    (row,), _ = _found(folder, {"image": "room.png", "size": size})
    assert row.fit is Fit.FILL


@pytest.mark.parametrize("fit", ["fill", "fit", "STRETCH"])
def test_another_shape_must_say_how(folder: Path, fit: str) -> None:
    assert "fit" in _refused(folder, {"image": "room.png", "size": "512x512"})
    (row,), _ = _found(folder, {"image": "room.png", "size": "512x512", "fit": fit})
    assert row.fit is Fit(fit.lower())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"strength": 0.5}, "without an image"),
        ({"image": "gone.png"}, "no such file"),
        ({"image": "."}, "a folder found"),
        ({"image": "room.png", "strength": 0}, "strength"),
        ({"image": "room.png", "strength": 0.01}, "less than one step"),
        ({"image": "room.png", "highres": {"base_px": 512}}, "base_px given beside an image"),
        ({"image": "https://example.org/a.png"}, "not fetched"),
        ({"image": "s3://bucket/a.png"}, "no deployment is configured"),
        ({"image": "batch://b/row-1"}, "no deployment is configured"),
    ],
)
def test_what_cannot_work_is_refused_by_row_and_field(folder: Path, row: dict[str, Any], message: str) -> None:
    assert message in _refused(folder, row)


def test_no_path_is_read_where_no_folder_is_given(folder: Path) -> None:
    with pytest.raises(ValueError, match="not read on your machine"):
        InputPictures().take(str(folder / "room.png"))


def test_an_older_deployment_is_not_sent_what_it_would_not_read(folder: Path) -> None:
    message = _refused(folder, {"image": "room.png"}, images_in=False, masks=False)
    assert "begins with noise alone" in message


def test_as_many_passes_as_the_growth_takes(folder: Path) -> None:
    rows, _ = _found(
        folder,
        {"image": "square.png", "size": "1024x1024"},
        {"image": "square.png", "size": "2048x2048"},
        {"image": "square.png", "size": "2048x2048", "highres": "direct"},
        {"image": "square.png", "size": "2048x2048", "highres": "refine, strength=0.2"},
    )
    assert [row.highres for row in rows] == [
        Highres(),
        Highres(mode=HighresMode.REFINE),
        Highres(),
        Highres(mode=HighresMode.REFINE, strength=0.2),
    ]


def test_names_of_other_tools(folder: Path) -> None:
    rows, _ = _found(
        folder,
        {"init_image": "room.png", "denoising_strength": 0.3},
        {"image": "room.png", "prompt_strength": 0.4},
        {"prompt_strength": 0.8},
    )
    assert [row.strength for row in rows] == [0.3, 0.4, None]


def test_less_strength_is_less_work(folder: Path) -> None:
    begun = [{"image": "square.png", "strength": part} for part in (0.2, 0.5, 1.0)]
    rows, _ = _found(folder, *begun, {"size": "512x512"})
    least, middle, most, plain = (tera_operations(row, 1024) for row in rows)
    assert least < 0.3 * plain < middle < plain < most
