"""docs/pod.md names every pod setting, as the program has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from k8s.pod import Clocks, PodSettings, WeightsCache

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pod.md"


def _row(name: str, field: FieldInfo) -> str:
    value: Any = "required" if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = None
    shown = "" if value in (None, (), {}) else f"`{json.dumps(value)}`" if value != "required" else value
    return f"| `{name}` | {shown} | {field.description or ''} |"


def rows() -> list[str]:
    """The lines of the table."""
    parts: list[tuple[str, type[BaseModel]]] = [("", PodSettings), ("models_cache.", WeightsCache), ("clocks.", Clocks)]
    return [_row(prefix + name, field) for prefix, model in parts for name, field in model.model_fields.items()]


def test_the_page_has_exactly_the_rows_of_the_settings() -> None:
    settings = PAGE.read_text().partition("**NCCL**")[0]  # variables that are no settings come after it
    found = [line for line in settings.splitlines() if line.startswith("| `")]
    assert found == rows(), "replace the table by:\n" + "\n".join(rows())


def test_every_setting_is_described() -> None:
    assert not [row for row in rows() if row.endswith("|  |")]


def test_the_example_on_the_page_is_valid() -> None:
    text = PAGE.read_text().split("```json\n")[1].split("```")[0]
    assert PodSettings.model_validate_json(text).models_claim == "sdxl-weights"
