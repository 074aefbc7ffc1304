"""The examples of each dialect are valid, and mean the same kind of picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.promptset.formats.lines import ReadOptions
from tests.pipeline.promptset.reading import read, said

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    "name", ["web-ui-options.txt", "kohya-lines.txt", "infotexts.txt", "array.json", "excel.csv", "prompts.csv"]
)
def test_an_example_is_valid(tmp_path: Path, name: str) -> None:
    rows, found = read(tmp_path / name, (EXAMPLES / name).read_bytes(), ReadOptions(extra_columns="metadata"))
    assert said(found) == ([], [])
    assert len(rows) >= 2
