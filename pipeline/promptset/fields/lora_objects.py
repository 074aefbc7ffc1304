"""LoRAs of a row as other tools write them, as objects of ours: `name`, `scale`, `text_scale`, `blocks`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.picture import Lora
from pipeline.promptset.syntax import a1111
from pipeline.promptset.syntax.parsed import BadSyntax

# InvokeAI's, ComfyUI's and the services': ours.
_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("lora", "lora_name", "path", "file", "filename", "model", "model_name"), "name"),
    **dict.fromkeys(
        ("weight", "strength", "strength_model", "model_strength", "lora_weight", "lora_strength"), "scale"
    ),
    **dict.fromkeys(("strength_clip", "clip_strength", "te_weight", "text_encoder_weight"), "text_scale"),
    **dict.fromkeys(("lbw", "block_weights"), "blocks"),
}
_OURS = frozenset(Lora.model_fields)
_TAGS = re.compile(r"(?:\s*(?:,\s*)?<(?:lora|lyco):[^<>]+>)+\s*")


def of_tags(text: str) -> list[dict[str, Any]]:
    """From `<lora:film:0.8> <lora:grain>`; empty if the text is something else. Raises ValueError."""
    if not _TAGS.fullmatch(text):
        return []
    try:
        tags = a1111.lora_tags(text)
    except BadSyntax as error:
        raise ValueError(str(error)) from None
    return [
        {"name": tag.name, "scale": tag.scale}
        | ({"text_scale": tag.text_scale} if tag.text_scale != tag.scale else {})
        | ({"blocks": tag.blocks} if tag.blocks else {})
        for tag in tags
    ]


def of_mapping(given: Mapping[str, Any]) -> list[object]:
    """From one LoRA's object, or from scales by name."""
    if any(isinstance(given.get(key), str | Mapping) and _NAMES.get(key, key) == "name" for key in given):
        return [given]
    return [
        {"name": name, **value} if isinstance(value, Mapping) else {"name": name, "scale": value}
        for name, value in given.items()
    ]


def of_one(given: object) -> object | None:
    """One LoRA of a list: a pair of name and scale, or an object; None if it is neither."""
    if isinstance(given, Lora):
        return given
    if isinstance(given, Mapping):
        return _under_our_names(given)
    if isinstance(given, Sequence) and len(given) == 2 and isinstance(given[0], str):
        return {"name": given[0], "scale": given[1]}
    return None


def _under_our_names(given: Mapping[str, Any]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        ours = key if key in _OURS else _NAMES.get(key, key)
        if ours in found:
            raise ValueError(f"{ours} given twice in a LoRA, as {key}, too; one wanted")
        named = isinstance(value, Mapping) and ours == "name"  # InvokeAI's {"key", "name", "base"}
        found[ours] = value.get("name", value) if named else value
    return found
