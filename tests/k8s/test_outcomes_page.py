"""docs/outcomes.md explains every outcome."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.records.attempt import Code

PAGE = Path(__file__).resolve().parents[2] / "docs" / "outcomes.md"


def test_every_outcome_has_its_row() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(code.value for code in Code)
