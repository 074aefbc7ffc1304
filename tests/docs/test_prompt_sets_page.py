"""docs/prompt-sets.md names every field of a row, as the program has it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.promptset.fields.row import Row
from pipeline.promptset.names.aliases import ALIASES
from pipeline.promptset.names.sampler_names import ABSENT, ABSENT_SCHEDULES, NAMES, key_of
from pipeline.promptset.names.samplers import READS, scheduler_of
from tests.pipeline.promptset import names_of_tools

PAGE = Path(__file__).resolve().parents[2] / "docs" / "prompt-sets.md"

# What a type does not show: the forms that a field's value may take.
FORMS = {
    "size": "`1024x1536`, `[1024, 1536]`, `1024`",
    "original_size": "as `size`, or null",
    "crop": "`0,64`, `[0, 64]`",
    "target_size": "as `size`, or null",
    "negative_original_size": "as `size`, or null",
    "negative_crop": "as `crop`",
    "negative_target_size": "as `size`, or null",
    "aspect": "`16:9`, number",
    "scheduler": "name, object",
    "guidance_interval": "`0.2, 0.8`, `[0.2, 0.8]`",
    "timesteps": "`999, 500, 1`, list of numbers",
    "sigmas": "`14.6, 3`, list of numbers",
    "loras": "list of names and objects",
    "highres": "mode, object",
    "control": "`edges, image=house.png, scale=0.7`, list of objects",
    "reference": "`face, image=anna.png, scale=0.6`, list of objects",
    "canvas": "`1536x1024`, `1536x1024+256+0`",
    "masked_size": "as `size`",
    "metadata": "object",
}
KINDS = {"int": "integer", "float": "number", "bool": "true, false", "str": "text"}


def _kind(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type):
        return KINDS.get(annotation.__name__) or ", ".join(f"`{one.value}`" for one in annotation)  # type: ignore[attr-defined]
    inner = get_args(annotation)
    kinds = [_kind(one) for one in (inner[:1] if get_origin(annotation).__name__ == "Annotated" else inner)]
    return ", ".join(kinds)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, {}, ()):
        return ""
    if isinstance(value, BaseModel):
        return f"`{value.mode.value}`"  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        return f"`{value[0]},{value[1]}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def row(name: str, field: FieldInfo) -> str:
    """The line of the table for one field."""
    kind = FORMS.get(name) or _kind(field.annotation).replace("text, null", "text, null")
    # null says no more than leaving the field out, but where another level says something
    kind = kind if "prompt" in name else kind.removesuffix(", null")
    return f"| `{name}` | {kind} | {_default(field)} | {field.description} |"


def _table(start: str) -> list[str]:
    lines = PAGE.read_text().splitlines()
    begin = lines.index(start) + 2
    end = next(n for n in range(begin, len(lines)) if not lines[n].startswith("|"))
    return lines[begin:end]


def test_the_page_has_exactly_the_fields_of_a_row() -> None:
    names = ["prompt", "custom_id", "seed", *(n for n in Row.model_fields if n not in ("prompt", "custom_id", "seed"))]
    wanted = [row(name, Row.model_fields[name]) for name in names]
    found = _table("| field | value | default | meaning |")
    assert found == wanted, "replace the table by:\n" + "\n".join(wanted)


def test_the_page_has_every_other_name_of_a_field() -> None:
    fields = dict.fromkeys(ALIASES.values())
    wanted = [f"| `{f}` | {', '.join(f'`{a}`' for a, of in ALIASES.items() if of == f)} |" for f in fields]
    found = _table("| field | also |")
    assert found == wanted, "replace the table by:\n" + "\n".join(wanted)


def sampler_row(name: str) -> str:
    """The line of the table for one sampler: its class, its schedules, and names of other tools."""
    kind, _ = NAMES[name]
    spaced = "spacing, " if "timestep_spacing" in READS[kind] else ""
    shapes = {"Karras": "use_karras_sigmas", "Exponential": "use_exponential_sigmas", "Lu": "use_lu_lambdas"}
    schedules = spaced + ", ".join(shape for shape, setting in shapes.items() if setting in READS[kind])
    plain = scheduler_of(name)
    others: list[str] = []
    for tool in ("ComfyUI", "InvokeAI", "Replicate", "Stability"):
        for other in names_of_tools.TOOLS[tool]:
            with suppress(ValueError):
                if scheduler_of(other) == plain and key_of(other) not in map(key_of, [name, *others]):
                    others.append(other)
    return f"| `{name}` | `{kind}` | {schedules.strip(', ')} | {', '.join(f'`{other}`' for other in others)} |"


def test_the_page_has_every_scheduler() -> None:
    wanted = [sampler_row(name) for name in NAMES]
    found = _table("| name | diffusers class | schedules | also |")
    assert found == wanted, "replace the table by:\n" + "\n".join(wanted)


def test_the_page_has_what_there_is_no_scheduler_for() -> None:
    wanted = [f"| `{name}` | {why} | `{near}` |" for name, (why, near) in ABSENT.items()]
    wanted += [
        f"| schedule `{name}` | diffusers has none | schedule `{near}` |" for name, near in ABSENT_SCHEDULES.items()
    ]
    found = _table("| name | why not | nearest |")
    assert found == wanted, "replace the table by:\n" + "\n".join(wanted)
