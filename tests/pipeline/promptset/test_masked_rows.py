"""Rows that paint a part of a picture anew: mask, canvas, and the region that is rendered alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageStat

from pipeline.deployment.allowed import AllowedModel
from pipeline.deployment.control_cost import MEGA
from pipeline.deployment.cost import tera_operations, unet_tera
from pipeline.input_picture import Inpainting, InputMask
from pipeline.picture import Highres
from pipeline.promptset.decisions.regions import region_of
from pipeline.promptset.fields.row import ResolvedRow
from tests.factories import noise
from tests.pipeline.promptset.validated import PictureRows

ROOM = {"image": "room.png"}
MASKED = {"image": "room.png", "mask": "mask.png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise(640, 480).save(tmp_path / "room.png")
    mask = Image.new("L", (640, 480))
    ImageDraw.Draw(mask).rectangle((100, 200, 179, 279), 255)
    mask.save(tmp_path / "mask.png")
    Image.new("L", (640, 480)).save(tmp_path / "empty.png")
    Image.new("L", (640, 480), 255).save(tmp_path / "full.png")
    Image.linear_gradient("L").resize((640, 480)).save(tmp_path / "grey.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "small.png")
    hole = Image.open(tmp_path / "room.png").convert("RGBA")
    hole.paste((0, 0, 0, 0), (100, 200, 180, 280))
    hole.save(tmp_path / "hole.png")
    frames = [Image.new("L", (640, 480), level) for level in (0, 255)]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:])
    return tmp_path


_found = PictureRows({"mask_rounds": True}).found


def _painted(row: ResolvedRow) -> Inpainting:
    assert row.inpaint is not None
    return row.inpaint


def test_a_mask_is_read_beside_the_image(folder: Path) -> None:
    (row, plain), validation = _found(folder, MASKED | {"mask_grow": 4, "mask_feather": 6}, ROOM)
    assert (row.width, row.height, row.strength) == (640, 480, 1.0)
    painted = _painted(row)
    assert (painted.mask.box, painted.grow, painted.feather) == ((100, 200, 180, 280), 4, 6)
    assert ResolvedRow.model_validate_json(row.model_dump_json()) == row
    assert [one.name for one in row.inputs] == ["room.png", "mask.png"]
    assert not validation.warnings
    assert "inpaint" not in plain.model_dump(mode="json")
    stored = Image.open(folder / f"{painted.mask.sha256}.png")
    assert (stored.mode, stored.size, stored.getbbox()) == ("L", (640, 480), painted.mask.box)


def test_transparent_parts_are_a_mask_and_take_the_colours_around(folder: Path) -> None:
    (row,), validation = _found(folder, {"image": "hole.png", "mask": "ALPHA"})
    assert _painted(row).mask.box == (100, 200, 180, 280)
    assert not validation.warnings
    room = Image.open(folder / "room.png")
    stored = Image.open(folder / f"{row.inputs[0].sha256}.png")
    for pixel in ((99, 200), (180, 279)):
        assert stored.getpixel(pixel) == room.getpixel(pixel)
    red = stored.crop((100, 200, 180, 280)).getchannel("R")
    assert min(red.tobytes()) > 20  # nothing of it is black


@pytest.mark.parametrize(
    ("canvas", "box", "corner"),
    [
        ("1024x480", (0, 0, 1024, 480), (192, 0)),
        ("1024x480+0+0", (640, 0, 1024, 480), (0, 0)),
        ([700, 500, 60, 20], (0, 0, 700, 500), (60, 20)),
    ],
)
def test_what_is_around_the_image_on_a_canvas_is_painted(
    folder: Path, canvas: object, box: tuple[int, ...], corner: tuple[int, int]
) -> None:
    (row,), _ = _found(folder, ROOM | {"canvas": canvas})
    picture, mask = (Image.open(folder / f"{one.sha256}.png") for one in row.inputs)
    assert (row.width, row.height) == picture.size == mask.size
    assert _painted(row).mask.box == box
    room = Image.open(folder / "room.png")
    inside = (*corner, corner[0] + 640, corner[1] + 480)
    assert picture.crop(inside).tobytes() == room.tobytes()
    assert mask.crop(inside).getbbox() is None
    outside = mask.histogram()
    assert (outside[255], outside[0]) == (mask.width * mask.height - 640 * 480, 640 * 480)
    assert 30 < ImageStat.Stat(picture, mask).mean[0] < 220  # filled, neither black nor white


def test_a_mask_and_a_canvas_are_painted_together(folder: Path) -> None:
    (row,), _ = _found(folder, MASKED | {"canvas": "1024x480+0+0"})
    assert _painted(row).mask.box == (100, 0, 1024, 480)


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"mask": "mask.png"}, "mask", "without an image"),
        ({"canvas": "900x900"}, "canvas", "without an image"),
        (ROOM | {"mask_feather": 3}, "mask_feather", "without a mask"),
        (ROOM | {"only_masked": True}, "only_masked", "without a mask"),
        (ROOM | {"mask_rounds": 3}, "mask_rounds", "without a mask"),
        ({"certainty": True}, "mask_rounds", "without an image"),
        (MASKED | {"mask_rounds": 0}, "mask_rounds", "greater than or equal to 1"),
        (MASKED | {"mask_rounds": 17}, "mask_rounds", "less than or equal to 16"),
        (MASKED | {"mask_rounds": "many"}, "mask_rounds", "'many' found; a number of rounds, or true, wanted"),
        (MASKED | {"mask_rounds": 3, "strength": 0.5}, "mask_rounds", "beside strength 0.5"),
        (MASKED | {"mask_padding": 3}, "mask_padding", "without only_masked"),
        (ROOM | {"mask": "small.png"}, "mask", "64x64 pixels found, and the image has 640x480"),
        (ROOM | {"mask": "empty.png"}, "mask", "no part of it is white"),
        (ROOM | {"mask": "hole.png"}, "mask", "transparent parts found"),
        (ROOM | {"mask": "moves.webp"}, "mask", "an animation"),
        (ROOM | {"mask": "https://example.org/m.png"}, "mask", "not fetched"),
        (ROOM | {"mask": "gone.png"}, "mask", "'gone.png': no such file"),
        (ROOM | {"mask": "alpha"}, "mask", "no part of the image is transparent"),
        (ROOM | {"canvas": "640x480"}, "canvas", "nothing is painted"),
        (ROOM | {"canvas": "600x900"}, "canvas", "sticks out"),
        (ROOM | {"canvas": "900x900+300+0"}, "canvas", "sticks out"),
        (ROOM | {"canvas": "wide"}, "canvas", "1536x1024"),
        (ROOM | {"canvas": "16000x16000"}, "canvas", "at most 100 megapixels"),
        (MASKED | {"mask_grow": 5000}, "mask_grow", "less than or equal to 512"),
        (MASKED | {"only_masked": True, "size": "1024x768"}, "only_masked", "stays the image's 640x480"),
        (MASKED | {"only_masked": True, "highres": "refine"}, "highres", "in one pass"),
        (MASKED | {"only_masked": True, "masked_size": "512x8000"}, "masked_size", "no more room"),
    ],
)
def test_what_cannot_work_is_refused_by_row_and_field(
    folder: Path, row: dict[str, Any], field: str, message: str
) -> None:
    rows, validation = _found(folder, row)
    assert not rows
    assert (validation.errors[0].line, validation.errors[0].field) == (1, field)
    assert message in validation.errors[0].message


def test_a_model_that_fills_masks_wants_one(folder: Path) -> None:
    models = {"sdxl": AllowedModel(revision="r", native_px=1024, inpainting=True)}
    canvas = ROOM | {"canvas": "1024x480+0+0"}
    rows, validation = _found(folder, {}, ROOM, MASKED, canvas, MASKED | {"mask_rounds": 2}, models=models)
    assert [row.custom_id for row in rows] == ["row-3", "row-4"]
    assert [(error.line, error.field) for error in validation.errors] == [(1, "image"), (2, "mask"), (5, "mask_rounds")]
    assert "the model 'sdxl' fills masks alone; an image and its mask wanted" in validation.errors[0].message


@pytest.mark.parametrize(
    ("mask", "message"), [("full.png", "nothing of the image stays"), ("grey.png", "of it is grey, taken for black")]
)
def test_what_a_user_would_want_to_know_of_a_mask(folder: Path, mask: str, message: str) -> None:
    rows, validation = _found(folder, ROOM | {"mask": mask})
    assert rows
    (warning,) = validation.warnings
    assert warning.field == "mask"
    assert message in warning.message


def test_an_older_deployment_is_not_sent_what_it_would_not_read(folder: Path) -> None:
    rows, validation = _found(folder, MASKED, ROOM | {"canvas": "900x900"}, ROOM, masks=False)
    assert [row.custom_id for row in rows] == ["row-3"]
    assert [error.field for error in validation.errors] == ["mask", "canvas"]


def test_rounds_in_which_a_mask_is_filled(folder: Path) -> None:
    wanted: list[dict[str, Any]] = [{}, {"mask_rounds": 3}, {"certainty": True}, {"certainty": "false"}]
    rows, validation = _found(folder, *(MASKED | one for one in wanted), ROOM | {"certainty": False})
    assert not validation.errors
    assert [_painted(row).rounds for row in rows[:4]] == [1, 3, 4, 1]
    assert "rounds" not in rows[0].model_dump(mode="json")["inpaint"]
    assert ResolvedRow.model_validate_json(rows[1].model_dump_json()) == rows[1]
    each = 2 * unet_tera(640 * 480 / MEGA, None)
    heun, _ = _found(folder, *(MASKED | one | {"scheduler": "Heun"} for one in wanted[:2]))
    for once, thrice in (rows[:2], heun):  # rounds are walked alike whatever the picture's scheduler
        assert tera_operations(thrice, 1024) - tera_operations(once, 1024) == pytest.approx(2 * 16 * each)
    older, refused = _found(folder, MASKED, MASKED | {"mask_rounds": 2}, mask_rounds=False)
    assert (len(older), [error.field for error in refused.errors]) == (1, ["mask_rounds"])


def test_what_holds_for_all_rows_has_no_effect_on_those_without_an_image(folder: Path) -> None:
    rows, validation = _found(folder, {}, MASKED, defaults={"mask_feather": 8})
    assert rows[0].inpaint is None
    assert _painted(rows[1]).feather == 8
    assert [warning.field for warning in validation.warnings] == ["mask_feather"]


def test_a_region_is_rendered_at_the_models_size_and_costs_no_more_than_it(folder: Path) -> None:
    (alone, whole), _ = _found(folder, MASKED | {"only_masked": True}, MASKED)
    region = _painted(alone).region
    assert region is not None
    assert (region.left, region.top, region.width, region.height) == (67, 167, 146, 146)
    assert region.rendered == (1024, 1024)
    assert (alone.width, alone.height, alone.highres) == (640, 480, Highres())
    assert tera_operations(alone, 1024) > tera_operations(whole, 1024)


def _region(box: tuple[int, int, int, int], size: tuple[int, int], **changes: Any) -> tuple[int, ...]:
    mask = InputMask(sha256="a" * 64, width=size[0], height=size[1], box=box)
    given: dict[str, Any] = {"padding": 10, "native_px": 100, "wanted": None} | changes
    found = region_of(Inpainting(mask=mask, grow=4), given["padding"], size, given["native_px"], given["wanted"])
    assert found.left >= 0
    assert found.top >= 0
    assert found.left + found.width <= size[0]
    assert found.top + found.height <= size[1]
    return found.left, found.top, found.width, found.height, *found.rendered


def test_the_shape_of_a_region() -> None:
    assert _region((200, 200, 400, 400), (1000, 1000))[2:] == (230, 230, 230, 230)  # larger than native: as it is
    assert _region((0, 0, 20, 20), (1000, 1000))[:4] == (0, 0, 35, 35)  # in a corner
    assert _region((500, 100, 510, 900), (1000, 1000))[2:4] == (415, 830)  # no longer than two to one
    assert _region((500, 500, 540, 540), (1000, 1000), wanted=(200, 100))[2:] == (140, 70, 200, 100)
    assert _region((0, 0, 60, 60), (60, 400))[2:4] == (60, 75)


@pytest.mark.parametrize("size", [(1000, 1000), (101, 77), (136, 88), (72, 168)])
@pytest.mark.parametrize("box", [(0, 0, 20, 20), (30, 10, 72, 60), (5, 40, 70, 77)])
def test_a_region_is_the_same_again_where_its_record_says_in_which_size_it_is_rendered(
    box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    """Whole units make another shape of it, which once moved or refused the region of a replay."""
    for native_px in (50, 96, 100, 512, 1024):
        for padding in (0, 7, 20):
            found = _region(box, size, padding=padding, native_px=native_px)
            assert _region(box, size, padding=padding, native_px=native_px, wanted=found[4:]) == found
