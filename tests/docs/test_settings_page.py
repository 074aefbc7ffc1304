"""docs/settings.md names every setting, as the program has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.deployment.settings import PREFIX, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(get_args(annotation))
    kinds = {"int": "integer", "float": "number", "bool": "true or false"}
    own = [one for one in get_args(annotation) if one is not type(None)] or [annotation]
    return kinds.get(getattr(own[0], "__name__", ""), "text")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value in (None, "", {}, ()) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def row(name: str, field: FieldInfo) -> str:
    """The line of the table for one setting."""
    return f"| `{PREFIX}{name.upper()}` | {_kind(field.annotation)} | {_default(field)} | {field.description} |"


def test_the_page_has_exactly_the_rows_of_the_settings() -> None:
    wanted = [row(name, field) for name, field in Settings.model_fields.items()]
    found = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    assert found == wanted, "replace the table by:\n" + "\n".join(wanted)
