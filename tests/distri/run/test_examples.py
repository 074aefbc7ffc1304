"""The examples of every dialect render, each row of each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Pixels
from distri.ranks.mesh import Mesh
from distri.run.translate import image_of
from distri.sampling.control import Control
from embedded.model import CONTROLNETS, IP_ADAPTERS, NATIVE_PX, TRAINED, beside_demo
from pipeline.checkpoints.hashes import folder_revision, hashes_of
from pipeline.deployment.allowed import AllowedControlNet, AllowedIPAdapter
from pipeline.deployment.settings import ControlNetSource, IPAdapterSource
from pipeline.input_picture import Preprocess
from pipeline.inputs.gathered import InputPictures
from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.shards import ImageTask
from tests.factories import deployment
from training.obeyed import agreement, edges_of

EXAMPLES = Path(__file__).parents[3] / "examples"
STEERED = "steered.jsonl"  # needs what was trained for the demo model
FILES = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix not in ("", ".py") and path.name != STEERED)
SMALL = Options(steps=4, size="64x64")
# Masks and canvases are of their images' sizes.
AS_LARGE_AS_THEIR_IMAGES = Options(steps=2)
AS_THEY_NEED = ReadOptions(comments=True, extra_columns="metadata")


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))


def test_there_is_one_of_each_dialect() -> None:
    assert {"a1111.jsonl", "comfy.jsonl", "compel.jsonl", "web-ui-options.txt", "kohya-lines.txt"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_an_example_renders(engine: Engine, name: str, tmp_path: Path) -> None:
    """Small and in few steps."""
    found = Validation(name, inputs=InputPictures([EXAMPLES], keep=tmp_path))
    source = open_source(EXAMPLES / name, options=AS_THEY_NEED)
    overrides = AS_LARGE_AS_THEIR_IMAGES if name == "images-in.jsonl" else SMALL
    known = deployment(max_megapixels=64.0, images_in=True, masks=True)
    rows = list(resolved_rows(source, Options(), known, found, batch_seed=1, overrides=overrides))
    assert (found.errors, found.warnings) == ([], [])
    assert len(rows) >= 2
    for row in rows:
        pixels = {one.sha256: np.array(Image.open(tmp_path / f"{one.sha256}.png")) for one in row.inputs}
        rendered = engine.render(image_of(ImageTask(row, 0), {}, {}, pixels=pixels), control=lambda: Control.GO)
        assert rendered.finite
        assert not rendered.blank, row.custom_id


@pytest.fixture(scope="module")
def demo() -> Engine:
    return Engine.load(TRAINED, Mesh.single(), dtype=torch.float32, settings=EngineSettings(native_px=NATIVE_PX))


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[ResolvedRow, dict[str, Pixels]]]:
    """The rows that need what was trained for the demo model, each with its pictures by digest."""
    revision, folder = folder_revision(TRAINED), tmp_path_factory.mktemp("inputs")
    adapters, networks = beside_demo(IP_ADAPTERS, revision), beside_demo(CONTROLNETS, revision)
    known = deployment(
        images_in=True,
        references=True,
        control=True,
        ip_adapters={name: AllowedIPAdapter(models=("demo",)) for name in adapters},
        controlnets={name: AllowedControlNet(models=("demo",)) for name in networks},
    )
    found = Validation(STEERED, inputs=InputPictures([EXAMPLES], keep=folder))
    rows = list(resolved_rows(open_source(EXAMPLES / STEERED), Options(), known, found, batch_seed=1))
    assert (found.errors, found.warnings) == ([], [])
    assert [len(row.reference) for row in rows] == [1, 1, 0, 0]
    assert [len(row.control) for row in rows] == [0, 0, 1, 1]
    return [(row, {one.sha256: _read(folder / f"{one.sha256}.png") for one in row.inputs}) for row in rows]


def test_a_reference_for_the_demo_model_is_obeyed(
    demo: Engine, steered: list[tuple[ResolvedRow, dict[str, Pixels]]]
) -> None:
    """Colours are nearer to those of the reference than by the same prompts and seeds without it."""
    adapters = _adapters(beside_demo(IP_ADAPTERS, folder_revision(TRAINED)))
    for row, pixels in steered[:2]:
        (wanted,) = (_colours(picture) for picture in pixels.values())
        spec = image_of(ImageTask(row, 0), {}, {}, ip_adapters=adapters, pixels=pixels)
        alike, free = (
            np.abs(_colours(_rendered(demo, one)) - wanted).mean() for one in (spec, replace(spec, references=()))
        )
        assert alike < 0.7 * free, row.custom_id


def test_edges_for_the_demo_model_are_obeyed(
    demo: Engine, steered: list[tuple[ResolvedRow, dict[str, Pixels]]]
) -> None:
    """As a picture of another, and as a map: by `training.obeyed`, and not without the network."""
    files = beside_demo(CONTROLNETS, folder_revision(TRAINED))
    networks = {name: ControlNetSource(path=str(path), sha256=hashes_of(path).sha256) for name, path in files.items()}
    for row, pixels in steered[2:]:
        (picture,) = pixels.values()
        edges = edges_of(picture) if row.control[0].preprocess is Preprocess.CANNY else picture[..., 0] > 0
        spec = image_of(ImageTask(row, 0), {}, {}, networks, pixels=pixels)
        obeyed, free = (agreement(_rendered(demo, one), edges) for one in (spec, replace(spec, control=())))
        assert obeyed > free + 0.15, row.custom_id


def _read(path: Path) -> Pixels:
    return np.array(Image.open(path).convert("RGB"))


def _adapters(files: Mapping[str, Path]) -> dict[str, IPAdapterSource]:
    return {
        name: IPAdapterSource(
            path=str(path),
            sha256=hashes_of(path).sha256,
            image_encoder=str(path.parent / "image_encoder"),
            image_encoder_sha256=hashes_of(path.parent / "image_encoder" / "model.safetensors").sha256,
        )
        for name, path in files.items()
    }


def _rendered(engine: Engine, spec: ImageSpec) -> Pixels:
    pixels = engine.render(spec, control=lambda: Control.GO).pixels
    assert pixels is not None
    return pixels


def _colours(picture: Pixels) -> npt.NDArray[np.float64]:
    """Medians of the sky and of the land."""
    height = len(picture)
    return np.stack([np.median(part, axis=(0, 1)) for part in (picture[: height // 6], picture[-height // 4 :])])
