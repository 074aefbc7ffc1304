"""docs/client.md says of every failure what the program says a user can do about it."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.records.remedies import REMEDIES
from pipeline.records.results import FailureCode

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text()


def test_every_code_has_its_row_with_what_to_do() -> None:
    rows = dict(re.findall(r"^\| `(E_[A-Z_]+)` \| .* \| (.*) \|$", PAGE, re.MULTILINE))
    assert rows == {code.value: REMEDIES[code] for code in FailureCode}
