"""The examples of every dialect render, each row of each file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.ranks.mesh import Mesh
from distri.run.translate import image_of
from distri.sampling.control import Control
from pipeline.promptset.lines import ReadOptions
from pipeline.promptset.row import Options
from pipeline.promptset.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.shards import ImageTask
from tests.factories import deployment

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix != ".py")
SMALL = Options(steps=4, size="64x64")
AS_THEY_NEED = ReadOptions(comments=True, extra_columns="metadata")


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))


def test_there_is_one_of_each_dialect() -> None:
    assert {"a1111.jsonl", "comfy.jsonl", "compel.jsonl", "web-ui-options.txt", "kohya-lines.txt"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_an_example_renders(engine: Engine, name: str) -> None:
    """Small and in few steps."""
    found = Validation(name)
    source = open_source(EXAMPLES / name, options=AS_THEY_NEED)
    rows = list(resolved_rows(source, Options(), deployment(max_megapixels=64.0), found, batch_seed=1, overrides=SMALL))
    assert (found.errors, found.warnings) == ([], [])
    assert len(rows) >= 2
    for row in rows:
        rendered = engine.render(image_of(ImageTask(row, 0), {}, {}), control=lambda: Control.GO)
        assert rendered.finite
        assert not rendered.blank, row.custom_id
