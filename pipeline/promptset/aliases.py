"""The names under which users know a field, and the envelope of the OpenAI Batch API, brought to our own names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

# Other name: field.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "id": "custom_id",
        "num_inference_steps": "steps",
        "sampling_steps": "steps",
        "cfg_scale": "guidance_scale",
        "cfg": "guidance_scale",
        "guidance": "guidance_scale",
        "cfg_rescale": "guidance_rescale",
        "sampler": "scheduler",
        "sampler_name": "scheduler",
        "n": "num_images",
        "n_iter": "num_images",
        "num_outputs": "num_images",
        "num_images_per_prompt": "num_images",
        "aspect_ratio": "aspect",
        "lora": "loras",
        "checkpoint": "model",
        "output_format": "format",
        "output_quality": "quality",
        "output_compression": "quality",
    }
)

_ENVELOPE = frozenset({"custom_id", "method", "url", "body"})


class BadFields(ValueError):
    """Fields that contradict each other or that nobody knows: what is wrong, by field."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{name}: {message}" for name, message in problems.items()))


def resolve_aliases(given: Mapping[str, Any], fields: Collection[str]) -> tuple[Mapping[str, Any], dict[str, str]]:
    """A row under our own names.

    Args:
        given: as the user wrote it: our names, aliases, or {"custom_id", "method", "url", "body"}.
        fields: our names.

    Returns:
        The fields, unknown ones as they stand, and what is wrong by field: a field that is given under two names, or an
        envelope that holds more than an envelope does.
    """
    problems: dict[str, str] = {}
    if "body" in given and "body" not in fields:
        given, problems = _unwrap(given)
    if given.keys() <= set(fields):
        return given, problems
    named: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in given.items():
        name = key if key in fields else ALIASES.get(key, key)
        if name in written:
            problems[name] = f"given twice, as {written[name]} and as {key}; one wanted"
            continue
        written[name], named[name] = key, value
    return named, problems


def nearest(name: str, fields: Collection[str]) -> str:
    """What a message says of an unknown field: the one that was meant, or all."""
    known = [*fields, *(alias for alias, field in ALIASES.items() if field in fields)]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(fields))}"


def _unwrap(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, str]]:
    body = given["body"]
    if not isinstance(body, Mapping):
        return {}, {"body": f"{type(body).__name__} found; an object with the row's fields wanted"}
    problems = {
        str(key): "beside `body` only custom_id, method and url are known; the row's fields stand inside"
        for key in given.keys() - _ENVELOPE
    }
    fields = dict(body)
    if "custom_id" in given:
        if "custom_id" in fields:
            problems["custom_id"] = "given twice, beside `body` and inside; one wanted"
        fields["custom_id"] = given["custom_id"]
    return fields, problems
