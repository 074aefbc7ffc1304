"""Rows that resemble reference pictures: names, pictures, masks, and what is refused by its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.deployment.allowed import AllowedIPAdapter
from pipeline.deployment.control_cost import REFERENCE
from pipeline.deployment.cost import tera_operations
from pipeline.promptset.fields.row import ResolvedRow
from tests.factories import noise
from tests.pipeline.promptset.validated import PictureRows

ADAPTERS = {
    "face": AllowedIPAdapter(names=("ip-adapter-plus-face_sdxl_vit-h",)),
    "style": AllowedIPAdapter(models=("sdxl",)),
    "old": AllowedIPAdapter(base="SD 1.x"),
}
ANNA = {"adapter": "face", "image": "anna.png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise(224, 224).save(tmp_path / "anna.png")
    noise(300, 200).save(tmp_path / "wide.png")
    left = Image.new("L", (640, 480))
    left.paste(255, (0, 0, 320, 480))
    left.save(tmp_path / "left.png")
    left.resize((320, 240)).save(tmp_path / "small.png")
    Image.new("L", (640, 480)).save(tmp_path / "black.png")
    Image.new("L", (640, 480), 255).save(tmp_path / "white.png")
    (tmp_path / "empty.png").write_bytes(b"")
    frames = [Image.new("L", (640, 480), level) for level in (0, 255)]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:])
    return tmp_path


ROWS = PictureRows({"ip_adapters": ADAPTERS, "references": True}, {"size": "640x480"})
_found, _refused = ROWS.found, ROWS.refused


def test_several_with_scales_and_a_mask(folder: Path) -> None:
    several = [ANNA | {"scale": 0.6, "mask": "left.png"}, {"adapter": "style", "image": "anna.png"}]
    (row, plain), validation = _found(folder, {"reference": several}, {})
    face, style = row.reference
    assert (face.adapter, face.scale, style.adapter, style.scale, style.mask) == ("face", 0.6, "style", 1.0, None)
    assert face.image == style.image
    assert face.mask is not None
    assert (face.mask.box, face.mask.mode, face.mask.name) == ((0, 0, 320, 480), "L", "left.png")
    assert row.inputs == (face.image, face.mask, style.image)
    assert all((folder / f"{one.sha256}.png").is_file() for one in row.inputs)
    assert ResolvedRow.model_validate_json(row.model_dump_json()) == row
    assert "reference" not in plain.model_dump(mode="json")
    assert not validation.warnings


@pytest.mark.parametrize(
    "written",
    [
        "ip-adapter-plus-face_sdxl_vit-h.safetensors, image=anna.png, scale=0.6",
        {"ip_adapter": "Face", "ip_adapter_image": "anna.png", "weight": 0.6},
        '[{"adapter": "face", "image": "anna.png", "scale": 0.6}]',
    ],
)
def test_other_ways_to_write_it(folder: Path, written: Any) -> None:
    (row,), _ = _found(folder, {"ip_adapter": written})
    assert [(one.adapter, one.scale) for one in row.reference] == [("face", 0.6)]
    (again,), _ = _found(folder, {}, defaults={"reference": written})
    assert again.reference == row.reference
    assert _found(folder, {"reference": []}, defaults={"reference": written})[0][0].reference == ()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ([ANNA | {"adapter": "old"}], "reference.0.adapter: 'old' was made for SD 1.x, not for SDXL"),
        ([ANNA | {"adapter": "fase"}], "reference.0.adapter: 'fase' is not on the allow-list; nearest face"),
        ([ANNA, ANNA | {"image": "gone.png"}], "reference.1.image: 'gone.png': no such file"),
        ([ANNA | {"image": "empty.png"}], "reference.0.image: 'empty.png': an empty file"),
        ([ANNA | {"image": "moves.webp"}], "reference.0.image: 'moves.webp': an animation"),
        ([ANNA | {"image": "https://x/y.png"}], "reference.0.image: a web address"),
        ([ANNA | {"mask": "https://x/y.png"}], "reference.0.mask: a web address"),
        ([ANNA | {"mask": "gone.png"}], "reference.0.mask: 'gone.png': no such file"),
        ([ANNA | {"mask": "moves.webp"}], "reference.0.mask: 'moves.webp': an animation"),
        ([ANNA | {"mask": "black.png"}], "reference.0.mask: 'black.png': no part of it is white; white where the pict"),
        ([ANNA | {"mask": "small.png"}], "reference.0.mask: 320x240 pixels found, and the picture shall have 640x480"),
        ([ANNA | {"scale": float("nan")}], "reference.0.scale"),
        ([ANNA | {"scale": float("inf")}], "reference.0.scale"),
        ([ANNA | {"scale": 0}], "reference.0.scale"),
        ([ANNA | {"scale": 10.5}], "reference.0.scale"),
        ([ANNA | {"scale": "0.5"}], "reference.0.scale"),
        ([ANNA | {"fit": "fill"}], "reference.0.fit"),
        ([ANNA] * 9, "reference"),
        ([{"adapter": "face"}], "reference.0.image: missing"),
        ("face, scale=high, image=anna.png", "scale 'high' found; a number wanted"),
        (7, "reference"),
    ],
)
def test_what_is_refused(folder: Path, reference: Any, message: str) -> None:
    assert message in _refused(folder, {"reference": reference})


def test_an_adapter_for_another_model_and_a_deployment_that_reads_none(folder: Path) -> None:
    wanted = {"reference": [ANNA | {"adapter": "style"}], "model": "other"}
    assert "reference.0.adapter: 'style' is for sdxl; the row's model is 'other'" in _refused(folder, wanted)
    assert "which the deployment's version" in _refused(folder, {"reference": [ANNA]}, references=False)
    assert "allowed are none" in _refused(folder, {"reference": [ANNA]}, ip_adapters={})


def test_what_of_a_picture_does_not_count_is_a_warning(folder: Path) -> None:
    wide = ANNA | {"image": "wide.png", "mask": "white.png"}
    _, validation = _found(folder, {"reference": [wide]}, {"reference": [wide]})
    assert [(one.field, one.rows) for one in validation.warnings] == [("reference.0.image", 2), ("reference.0.mask", 2)]
    assert "its middle square" in validation.warnings[0].message
    assert "as without one" in validation.warnings[1].message


def test_beside_an_image_that_is_painted_anew(folder: Path) -> None:
    """The mask has the shape of what is rendered."""
    alone = {"size": None, "image": "left.png", "mask": "left.png", "only_masked": True, "masked_size": "640x480"}
    (row,), _ = _found(folder, alone | {"reference": [ANNA | {"mask": "left.png"}]})
    assert [one.mode for one in row.inputs] == ["RGB", "L", "RGB", "L"]
    assert row.inputs[1] == row.inputs[3]
    other = alone | {"masked_size": "512x512", "reference": [ANNA | {"mask": "left.png"}]}
    assert "the picture shall have 512x512" in _refused(folder, other)


def test_its_own_work_is_counted(folder: Path) -> None:
    plain, one, two = _found(folder, {}, {"reference": [ANNA]}, {"reference": [ANNA, ANNA]})[0]
    work = [tera_operations(row, 1024) for row in (plain, one, two)]
    evaluations, megapixels = 2 * plain.steps, 640 * 480 / 2**20
    assert work[1] - work[0] == pytest.approx(evaluations * REFERENCE * megapixels)
    assert work[2] - work[0] == pytest.approx(2 * (work[1] - work[0]))


def test_a_row_that_fits_a_pod_only_without_its_adapter_is_refused(folder: Path) -> None:
    memory: dict[str, Any] = {"megapixels_in_memory": 3.0, "one_gpu_megapixels": 3.0}
    (_,), _ = _found(folder, {}, **memory)
    message = _refused(folder, {"reference": [ANNA]}, **memory)
    assert "width: 640x480 is 0.3 megapixels" in message
    assert "hold up to 3 (TESSERA_ONE_GPU_MEGAPIXELS each), 2.7 of them less with its control networks" in message
    assert _found(folder, {"reference": [ANNA]}, **memory | {"one_gpu_megapixels": 3.2, "megapixels_in_memory": 3.2})[0]
