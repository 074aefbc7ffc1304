"""Rows that control networks steer: names, pictures, shares, and what is refused by its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.checkpoints.control_files import ControlFile
from pipeline.deployment.allowed import AllowedControlNet
from pipeline.deployment.cost import tera_operations
from pipeline.input_picture import ControlKind, Fit, Preprocess
from pipeline.promptset.fields.row import ResolvedRow
from tests.factories import noise
from tests.pipeline.promptset.validated import PictureRows

NETS = {
    "edges": AllowedControlNet(names=("canny-sdxl",)),
    "depth": AllowedControlNet(models=("sdxl",)),
    "old": AllowedControlNet(base="SD 1.x"),
    "union": AllowedControlNet(file=ControlFile(kind=ControlKind.UNION, modes=6)),
    "sketch": AllowedControlNet(file=ControlFile(kind=ControlKind.T2I_ADAPTER)),
}
EDGES = {"model": "edges", "image": "house.png"}
SKETCH = EDGES | {"model": "sketch"}
UNION = EDGES | {"model": "union"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise(640, 480).save(tmp_path / "house.png")
    Image.new("RGB", (512, 512), (9, 8, 7)).save(tmp_path / "square.png")
    (tmp_path / "empty.png").write_bytes(b"")
    frames = [Image.new("L", (64, 48), level) for level in (0, 255)]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:])
    return tmp_path


ROWS = PictureRows({"controlnets": NETS, "control": True}, {"size": "640x480"})
_found, _refused = ROWS.found, ROWS.refused


def test_a_network_with_its_picture(folder: Path) -> None:
    several = [EDGES | {"scale": 0.7, "end": 0.6, "preprocess": "Canny"}, {"model": "depth", "image": "house.png"}]
    (row, plain), _ = _found(folder, {"control": several}, {})
    edges, depth = row.control
    assert (edges.model, edges.scale, edges.start, edges.end, edges.fit) == ("edges", 0.7, 0.0, 0.6, Fit.FILL)
    assert (edges.preprocess, depth.preprocess) == (Preprocess.CANNY, Preprocess.NONE)
    assert edges.image == depth.image
    assert row.inputs == (edges.image, depth.image)
    assert (edges.image.width, edges.image.name) == (640, "house.png")
    assert ResolvedRow.model_validate_json(row.model_dump_json()) == row
    assert "control" not in plain.model_dump(mode="json")


@pytest.mark.parametrize(
    "written",
    [
        "canny-sdxl, image=house.png, scale=0.7, end=0.6",
        {"controlnet": "Edges", "image": "house.png", "weight": 0.7, "control_guidance_end": 0.6},
        '[{"model": "edges", "image": "house.png", "scale": 0.7, "end": 0.6}]',
    ],
)
def test_other_ways_to_write_it(folder: Path, written: Any) -> None:
    (row,), _ = _found(folder, {"controlnet": written})
    assert [(one.model, one.scale, one.end) for one in row.control] == [("edges", 0.7, 0.6)]
    (again,), _ = _found(folder, {}, defaults={"control": written})
    assert again.control == row.control


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ([EDGES | {"image": "square.png"}], "control.0.fit: its image has 512x512"),
        ([EDGES | {"image": "empty.png"}], "control.0.image: 'empty.png': an empty file"),
        ([EDGES | {"image": "moves.webp"}], "control.0.image: 'moves.webp': an animation"),
        ([EDGES | {"image": "gone.png"}], "control.0.image: 'gone.png': no such file"),
        ([EDGES | {"image": "https://x/y.png"}], "control.0.image: a web address"),
        ([EDGES | {"model": "old"}], "control.0.model: 'old' was made for SD 1.x, not for SDXL"),
        ([EDGES | {"model": "edgse"}], "control.0.model: 'edgse' is not on the allow-list; nearest edges"),
        ([EDGES | {"start": 0.6, "end": 0.6}], "start 0.6 and end 0.6 found"),
        ([EDGES | {"scale": float("nan")}], "control.0.scale"),
        ([EDGES | {"scale": -1.0}], "control.0.scale"),
        ([EDGES | {"end": 1.5}], "control.0.end"),
        ([EDGES | {"preprocess": "depth"}], "control.0.preprocess"),
        ([EDGES, EDGES], "control.1.model: 'edges' is there twice"),
        ([{"model": "edges"}], "control.0.image: missing"),
        (
            [UNION],
            "none found, and 'union' is a ControlNet-Union; one wanted of openpose (0), depth (1)",
        ),
        ([UNION | {"mode": 7}], "control.0.mode: 7 found; 'union' knows openpose (0)"),
        ([UNION | {"mode": "colour"}], "'colour' found; openpose, depth, scribble"),
        ([UNION | {"mode": 1}] * 2, "control.1.model: 'union' is there twice"),
        ([UNION | {"mode": 1}, UNION | {"mode": 2, "end": 0.5}], "control.1.start: 0 to 0.5 found beside 0 to 1"),
        ([SKETCH | {"mode": 1}], "control.0.mode: 1 found, and 'sketch' is no ControlNet-Union"),
        ("edges, scale=high, image=house.png", "scale 'high' found; a number wanted"),
        (7, "control"),
    ],
)
def test_what_is_refused(folder: Path, control: Any, message: str) -> None:
    assert message in _refused(folder, {"control": control})


def test_a_network_for_another_model_and_a_deployment_that_reads_none(folder: Path) -> None:
    wanted = {"control": [EDGES | {"model": "depth"}], "model": "other"}
    assert "control.0.model: 'depth' is for sdxl; the row's model is 'other'" in _refused(folder, wanted)
    assert "which the deployment's version" in _refused(folder, {"control": [EDGES]}, control=False)
    steered = {"control": [EDGES | {"fit": "fill"}], "size": "2048x2048", "highres": "cascade"}
    assert "control: found beside a cascade" in _refused(folder, steered, cascades=True)


def test_beside_a_mask_its_picture_has_the_shape_of_what_is_rendered(folder: Path) -> None:
    mask = Image.new("L", (640, 480))
    mask.paste(255, (100, 200, 180, 280))
    mask.save(folder / "mask.png")
    alone = {"size": None, "image": "house.png", "mask": "mask.png", "only_masked": True, "masked_size": "512x512"}
    assert "640x480 pixels, and the picture shall have 512x512" in _refused(folder, alone | {"control": [EDGES]})
    (row,), _ = _found(folder, alone | {"control": [EDGES | {"image": "square.png"}]})
    assert [one.width for one in row.inputs] == [640, 640, 512]


def test_several_pictures_of_a_union_and_an_adapter(folder: Path) -> None:
    modes = ({"mode": "Canny"}, {"mode": 1}, {"mode": "hed"})
    (row,), _ = _found(folder, {"control": [*(UNION | one for one in modes), SKETCH]})
    assert [(one.kind, one.mode) for one in row.control] == [
        (ControlKind.UNION, 3),
        (ControlKind.UNION, 1),
        (ControlKind.UNION, 2),
        (ControlKind.T2I_ADAPTER, None),
    ]
    (again,), _ = _found(folder, {"control": "union, image=house.png, mode=depth; edges, image=house.png"})
    assert [(one.model, one.mode) for one in again.control] == [("union", 1), ("edges", None)]
    assert ResolvedRow.model_validate_json(row.model_dump_json()) == row
    assert {"kind", "mode"}.isdisjoint(again.model_dump(mode="json")["control"][1])


def test_its_own_work_is_counted(folder: Path) -> None:
    plain, half, whole = _found(folder, {}, {"control": [EDGES | {"end": 0.5}]}, {"control": [EDGES]})[0]
    work = [tera_operations(row, 1024) for row in (plain, half, whole)]
    union, adapter = _found(folder, {"control": [UNION | {"mode": 1}, UNION | {"mode": 2}]}, {"control": [SKETCH]})[0]
    assert tera_operations(union, 1024) == work[2]
    assert 0 < tera_operations(adapter, 1024) - work[0] < 0.01 * work[0]
    assert work[2] - work[0] == pytest.approx(2 * (work[1] - work[0]))
    assert 0.35 < (work[2] - work[0]) / work[0] < 0.45
