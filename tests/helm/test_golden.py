"""What an upgrade changes in a cluster is seen in review: the default rendering, object by object."""

from __future__ import annotations

import os
from pathlib import Path

from tests.helm.chart import render

GOLDEN = Path(__file__).parent / "golden.yaml"


def test_the_default_rendering_is_the_one_on_record() -> None:
    text = render().text
    if os.environ.get("TESSERA_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "if this is what you want: TESSERA_GOLDEN=write pytest tests/helm/test_golden.py"
