"""From what was rendered back to rows, and two renders of one row compared."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.deployment.allowed import AllowedLora, AllowedModel
from pipeline.errors import RequestError
from pipeline.input_picture import AdapterReference, Control, Fit, Inpainting, InputMask, InputPicture, Preprocess
from pipeline.outputs.comparison import Difference, differences, likeness
from pipeline.outputs.extract import records_in, row_of
from pipeline.outputs.pictures import picture_rows
from pipeline.picture import (
    Cascade,
    Conditioning,
    Enlargement,
    File,
    Format,
    Highres,
    HighresMode,
    LaterPasses,
    LongPrompt,
    Lora,
    NormMode,
    Picture,
    Syntax,
)
from pipeline.promptset.decisions.options import Decisions
from pipeline.promptset.decisions.resolve import resolve
from pipeline.promptset.fields.row import Options, Row
from pipeline.promptset.names.samplers import scheduler_of
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import deployment, file_of, image_result, resolved_row

FULLEST: dict[str, Any] = {
    "prompt": 'a "harbour"\n\u2028 ü',
    "prompt_2": "oil on canvas",
    "negative_prompt": "",
    "negative_prompt_2": "blur",
    "long_prompt": LongPrompt.CHUNK,
    "width": 2049,
    "height": 1537,
    "steps": 25,
    "guidance_scale": 6.5,
    "guidance_rescale": 0.7,
    "scheduler": scheduler_of("DPM++ 2M Karras", {"solver_order": 3}),
    "loras": (Lora(name="film", scale=0.5), Lora(name="grain")),
    "highres": Highres(mode=HighresMode.REFINE, strength=0.4, steps=20, base_px=768),
    "later_passes": LaterPasses(window_px=512, guidance_scale=1.0, enlargement=Enlargement.LATENTS),
    "conditioning": Conditioning(original_size=(512, 768), crop=(0, 64), negative_target_size=(256, 256)),
    "file": File(format=Format.WEBP, quality=80, dpi=72, strip_metadata=True),
    "resync": 0.1,
    "norm_mode": NormMode.STALE,
    "most_work": 1.2,
    "settling_steps": 30,
    "metadata": {"client": "x", "n": 1.5, "none": None},
}

# What holds for all rows of another batch, none of which may reach a row that was extracted.
FOR_ALL: dict[str, Any] = {
    "prompt_2": "elsewhere",
    "negative_prompt_2": "elsewhere",
    "steps": 7,
    "size": "512x512",
    "scheduler": "DDIM",
    "loras": ["film"],
    "format": "webp",
    "quality": 50,
    "dpi": 1,
    "strip_metadata": True,
    "highres": "refine, strength=0.9",
    "long_prompt": "truncate",
    "guidance_interval": [0.1, 0.2],
    "refiner_switch_at": 0.3,
}


def _result(number: int = 0, **changes: Any) -> ImageResult:
    return image_result(ImageTask(resolved_row(num_images=3, **changes), number))


FREE = {"width": 512, "height": 520, "cascade": Cascade(switch_at=0.5, base_px=300, guidance_scale=1.0)}
CASCADE = {"width": 512, "height": 520, "cascade": Cascade(switch_at=0.5, base_px=300)}


@pytest.mark.parametrize(
    "changes", [{}, FULLEST, {"negative_prompt": "rain"}, {"file": File(format=Format.JPEG)}, CASCADE, FREE]
)
@pytest.mark.parametrize("defaults", [{}, FOR_ALL])
def test_a_row_from_a_result_renders_the_same_picture_whatever_holds_for_all(
    changes: dict[str, Any], defaults: dict[str, Any]
) -> None:
    result = _result(2, **changes)
    row = Row.model_validate(json.loads(json.dumps(row_of(result))))
    again = resolve(
        row,
        Decisions(
            Options.model_validate(defaults | {"negative_prompt": "elsewhere", "model": "other"}),
            deployment(
                models={name: AllowedModel(revision="r", native_px=256) for name in ("demo", "other")},
                loras={"film": AllowedLora(), "grain": AllowedLora()},
            ),
        ),
        line=9,
        index=0,
        first_image=0,
        batch_seed=99,
    )
    literal = {"syntax": Syntax.NONE}  # also where another syntax holds for all
    assert {name: getattr(again, name) for name in Picture.model_fields} == {
        name: getattr(result, name) for name in Picture.model_fields
    } | literal
    assert (again.seed, again.num_images, again.custom_id) == (102, 1, result.custom_id)


def _written(folder: Path, result: ImageResult) -> Path:
    path = folder / result.key.rpartition("/")[2]
    path.write_bytes(file_of(result).body)
    return path


@pytest.mark.parametrize("kind", Format)
def test_a_record_is_found_in_every_format_in_sidecars_and_in_results(tmp_path: Path, kind: Format) -> None:
    result = _result(file=File(format=kind))
    path = _written(tmp_path, result)
    [found] = records_in(path)
    assert (found.result, found.body) == (result, path.read_bytes())
    for name, text in (("s.json", result.model_dump_json()), ("results.jsonl", result.model_dump_json() + "\n\n")):
        (tmp_path / name).write_text(text)
        [found] = records_in(tmp_path / name)
        assert (found.result, found.body) == (result, None)


def test_a_stripped_image_is_known_by_the_sidecar_beside_it(tmp_path: Path) -> None:
    result = _result(file=File(strip_metadata=True))
    path = _written(tmp_path, result)
    with pytest.raises(RequestError, match="carries no record: it was stripped, or Tessera did not make it"):
        list(records_in(path))
    path.with_suffix(".json").write_text(result.model_dump_json())
    assert [found.result for found in records_in(path)] == [result]


@pytest.mark.parametrize("body", [b"", b"\n", b"hello", b'{"prompt": "a row is no result"}', b"\x00\xff"])
def test_what_holds_no_record_is_refused_or_empty(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(body)
    if body.strip():
        with pytest.raises(RequestError, match="line 1: no record of an image that is there"):
            list(records_in(path))
    else:
        assert list(records_in(path)) == []
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        list(records_in(tmp_path / "nothing.png"))


@pytest.mark.parametrize("name", ["empty.png", "empty.JPG"])
def test_an_empty_image_is_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RequestError, match="carries no record"):
        list(records_in(tmp_path / name))


def test_extracted_rows_have_an_id_and_a_seed_each(tmp_path: Path) -> None:
    results = [_result(0), _result(1), _result(2), _result(0)]
    results += [_result(0, custom_id="row-1-1"), _result(0, custom_id="x" * 256)]
    lines = tmp_path / "results.jsonl"
    lines.write_text("\n".join(result.model_dump_json() for result in results))
    rows = [found.row for found in picture_rows([lines], refused=lambda _path, why: pytest.fail(why))]
    assert [row["custom_id"] for row in rows[:5]] == ["row-1", "row-1-1", "row-1-2", "row-1-3", "row-1-1-2"]
    assert [row["seed"] for row in rows[:3]] == [100, 101, 102]
    assert all(Row.model_validate(row).num_images == 1 for row in rows)


def test_extract_writes_a_prompt_set_and_names_what_it_left_out(tmp_path: Path) -> None:
    good = [str(_written(tmp_path, _result(n, file=File(format=kind)))) for n, kind in enumerate(Format)]
    bad = tmp_path / "foreign.png"
    Image.new("RGB", (8, 8)).save(bad)
    for files, code, count in ((good, 0, 3), ([*good, str(bad)], 3, 3), ([str(bad)], 4, 0)):
        done = CliRunner().invoke(app, ["extract", *files], standalone_mode=False)
        assert done.return_value == code
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["seed"] for row in rows] == [100, 101, 102][:count]
        assert ("left out" in done.stderr) == (code != 0)


def test_what_differs_in_how_two_pictures_were_made_is_named() -> None:
    then = _result()
    assert differences(then, then) == []
    other = then.provenance.model_copy(
        update={
            "layout": "1x2x4",
            "attempt": 3,
            "versions": {"tessera-render": "1", "torch": "2"},
            "model_revision": "r2",
        }
    )
    assert set(differences(then, then.model_copy(update={"provenance": other}))) == {
        Difference("layout", "1x1x2", "1x2x4"),
        Difference("model_revision", "r1", "r2"),
        Difference("versions.tessera-render", "0", "1"),
        Difference("versions.torch", None, "2"),
    }


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_pixels_are_compared_by_their_peak_signal_to_noise_ratio() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    second = np.clip(first.astype(int) + rng.integers(-5, 6, first.shape), 0, 255).astype(np.uint8)
    mean_square = float(((first.astype(float) - second) ** 2).mean())
    found = likeness(_png(first), _png(second))
    assert found is not None
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / mean_square))
    assert (found.largest, found.same) == (int(np.abs(first.astype(int) - second).max()), False)
    same = likeness(_png(first), _png(first))
    assert same is not None
    assert (same.psnr_db, same.same) == (math.inf, True)
    assert likeness(_png(first), _png(first[:-1])) is None


def test_what_steered_a_picture_steers_its_replay() -> None:
    picture = InputPicture(sha256="a" * 64, width=64, height=48)
    wanted = Control(model="edges", image=picture, preprocess=Preprocess.CANNY, scale=0.7, end=0.5, fit=Fit.STRETCH)
    result = image_result(ImageTask(resolved_row(control=(wanted,)), 0))
    row = Row.model_validate(row_of(result))
    (again,) = row.control
    assert again.image == f"input://{result.batch_id}/{'a' * 64}"
    values = ("model", "preprocess", "scale", "start", "end", "fit")
    assert [getattr(again, name) for name in values] == [getattr(wanted, name) for name in values]


def test_what_pictures_are_to_a_union_is_in_the_file_and_in_its_replay(tmp_path: Path) -> None:
    picture = InputPicture(sha256="a" * 64, width=64, height=48)
    wanted = tuple(Control(model="union", image=picture, mode=mode) for mode in (0, 7))
    path = _written(tmp_path, image_result(ImageTask(resolved_row(control=wanted), 0)))
    (found,) = records_in(path)
    assert [one.mode for one in found.result.control] == [0, 7]
    assert [one.mode for one in Row.model_validate(row_of(found.result)).control] == [0, 7]


def test_what_a_picture_resembled_its_replay_resembles() -> None:
    picture = InputPicture(sha256="a" * 64, width=64, height=48)
    mask = InputMask(sha256="b" * 64, width=1024, height=1024, box=(0, 0, 8, 8))
    wanted = [
        AdapterReference(adapter="face", image=picture, scale=0.6, mask=mask),
        AdapterReference(adapter="style", image=picture),
    ]
    result = image_result(ImageTask(resolved_row(reference=tuple(wanted)), 0))
    fields = row_of(result)
    face, style = Row.model_validate(fields).reference
    assert (face.adapter, face.scale, style.adapter, style.scale, style.mask) == ("face", 0.6, "style", 1.0, None)
    assert face.image == style.image == f"input://{result.batch_id}/{'a' * 64}"
    assert face.mask == f"input://{result.batch_id}/{'b' * 64}"
    assert "control" not in fields


def test_a_hole_that_was_filled_in_rounds_is_filled_so_again() -> None:
    picture = InputPicture(sha256="a" * 64, width=1024, height=1024)
    mask = InputMask(sha256="b" * 64, width=1024, height=1024, box=(0, 0, 512, 1024))
    painted = [Inpainting(mask=mask, feather=3, rounds=rounds) for rounds in (4, 1)]
    results = [image_result(ImageTask(resolved_row(image=picture, strength=1.0, inpaint=one), 0)) for one in painted]
    fields, plain = map(row_of, results)
    again = Row.model_validate(fields)
    assert (again.mask_rounds, again.mask_feather) == (4, 3)
    assert "mask_rounds" not in plain  # earlier versions read it as well


def test_a_picture_that_cannot_be_read_is_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    line = image_result(ImageTask(resolved_row(), 0)).model_dump_json()
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text(line)
    (tmp_path / "c.png").symlink_to("/proc/self/mem")  # a file that even root cannot read from its beginning
    refused: list[str] = []
    found = list(picture_rows([tmp_path], refused=lambda _path, why: refused.append(why)))
    assert [row.path.name for row in found] == ["a.png", "b.png"]
    assert refused == [f"{tmp_path / 'c.png'} cannot be read: Input/output error"]
