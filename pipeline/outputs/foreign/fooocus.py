"""Files of Fooocus: its `parameters` are JSON, marked by `fooocus_scheme`; its other scheme is A1111's infotext."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from pipeline.outputs.foreign.found import ForeignPicture, Found, NotCarriedOver, number, parsed_json

_READ = frozenset(
    {
        "prompt",
        "negative_prompt",
        "full_prompt",
        "full_negative_prompt",
        "styles",
        "prompt_expansion",
        "steps",
        "resolution",
        "guidance_scale",
        "sampler",
        "scheduler",
        "seed",
        "loras",
        "clip_skip",
        "base_model",
        "base_model_hash",
        "metadata_scheme",
        "version",
        "created_by",
        "vae",
        "refiner_switch",
    }
)
_COMBINED = re.compile(r"lora_combined_\d+")
_RESOLUTION = re.compile(r"\D*(\d{1,5})\D+(\d{1,5})\D*")


def read(texts: Mapping[str, str]) -> ForeignPicture | None:
    """The picture of Fooocus' own scheme; None if there is none. Raises NotCarriedOver."""
    for name in ("parameters", "UserComment"):
        text = texts.get(name, "")
        if text.lstrip().startswith("{") and '"base_model"' in text and '"resolution"' in text:
            given = parsed_json(text, "its parameters")
            if isinstance(given, Mapping):
                return _picture(given)
    return None


def _picture(given: Mapping[str, Any]) -> ForeignPicture:
    found = Found({"syntax": "a1111"})  # weights are read as A1111 reads them
    # Styles and expansion are in the full prompts, whose parts are encoded one by one, as BREAK does.
    found.row["prompt"] = _joined(given.get("full_prompt")) or _joined(given.get("prompt"))
    if not found.row["prompt"]:
        raise NotCarriedOver("it has no prompt")
    found.row["negative_prompt"] = _joined(given.get("full_negative_prompt")) or _joined(given.get("negative_prompt"))
    if not given.get("full_prompt") and _list(given.get("styles")):
        found.leave_out(f"styles {given['styles']}")
    found.put("steps", given.get("steps"), int)
    found.put("guidance_scale", given.get("guidance_scale"), float)
    found.put("clip_skip", given.get("clip_skip"), int)
    found.seed(given.get("seed"))
    size = _RESOLUTION.fullmatch(str(given.get("resolution", ""))[:40])
    if size is not None:
        found.row |= {"width": int(size[1]), "height": int(size[2])}
    sampler, schedule = given.get("sampler"), given.get("scheduler")
    if isinstance(sampler, str):
        found.row["scheduler"] = {"name": sampler, "schedule": schedule} if isinstance(schedule, str) else sampler
    found.row["loras"] = loras = []
    for one in _list(given.get("loras")):
        scale = number(one[1], float) if isinstance(one, list) and len(one) > 1 else None
        if scale is None or not isinstance(one[0], str):
            found.leave_out(f"lora {one!r}")
        else:
            loras.append({"name": one[0], "scale": scale})
    for name, value in given.items():
        if name not in _READ and not _COMBINED.fullmatch(str(name)) and value not in (None, "", "None", [], False):
            found.leave_out(f"{name} {value}")
    if given.get("vae") not in (None, "", "None", "Default (model)"):
        found.leave_out(f"vae {given['vae']}")
    version = str(given.get("version") or "")
    program = version if version.lower().startswith("fooocus") else f"Fooocus {version}".strip()
    model, digest = given.get("base_model"), given.get("base_model_hash")
    return ForeignPicture(
        program[:60],
        found.row,
        tuple(found.left_out),
        model if isinstance(model, str) else None,
        digest if isinstance(digest, str) else None,
    )


def _joined(value: Any) -> str:
    parts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return " BREAK ".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


def _list(value: Any) -> list[Any]:
    """A list, or the text of one as Python writes it."""
    if isinstance(value, str) and len(value) < 10_000:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return list(value)[:100] if isinstance(value, list | tuple) else []
