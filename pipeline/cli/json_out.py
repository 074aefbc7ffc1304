"""JSON on standard output, for scripts: one value a line."""

from __future__ import annotations

import json
import sys
from typing import Any


def write_json(value: Any, *, ascii_only: bool = True) -> None:
    """Write a value as one line, at once: whoever reads a pipe has each line when it is written."""
    sys.stdout.write(json.dumps(value, ensure_ascii=ascii_only) + "\n")
    sys.stdout.flush()
