"""The names under which users know a field, and the envelope of the OpenAI Batch API, brought to our own names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Set
from types import MappingProxyType
from typing import Any

from pipeline.promptset.names.sampler_names import schedule_of
from pipeline.promptset.names.unknown_samplers import is_sampler

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
        "prompt_syntax": "syntax",
        "sampler": "scheduler",
        "sampler_name": "scheduler",
        "sampler_index": "scheduler",
        "controlnet": "control",
        "controlnets": "control",
        "references": "reference",
        "ip_adapter": "reference",
        "ip_adapters": "reference",
        "init_image": "image",
        "input_image": "image",
        "image_path": "image",
        "mask_image": "mask",
        "mask_blur": "mask_feather",
        "certainty": "mask_rounds",
        "inpaint_full_res": "only_masked",
        "inpaint_full_res_padding": "mask_padding",
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

# What other tools and data sets call a field, and what is not read as it without being asked: what it may mean.
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("text", "caption", "captions", "description", "inputs", "query", "positive_text"), "prompt"),
    **dict.fromkeys(("negative_text", "uncond", "negativeprompt", "uc"), "negative_prompt"),
    **dict.fromkeys(("image_size", "resolution", "dimensions", "img_size", "resolutions"), "size"),
    **dict.fromkeys(("samples", "count", "batchcount", "number_of_images", "batch_count", "repeats"), "num_images"),
    **dict.fromkeys(("name", "key", "title", "file_name", "filename", "image_id", "uuid"), "custom_id"),
    **dict.fromkeys(("w", "img_width"), "width"),
    **dict.fromkeys(("h", "img_height"), "height"),
    **dict.fromkeys(("scale", "cfgscale"), "guidance_scale"),
}

# Other tools name a sampler and the spacing of its steps apart; ComfyUI and the web UIs call the latter `scheduler`.
_SAMPLERS = ("sampler_name", "sampler", "sampler_index")
SCHEDULES = frozenset({"schedule_type", "noise_schedule", "scheduler_type"})

_ENVELOPE = frozenset({"custom_id", "method", "url", "body"})


class BadFields(ValueError):
    """Fields that contradict each other or that nobody knows: what is wrong, by field."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{name}: {message}" for name, message in problems.items()))


def resolve_aliases(given: Mapping[str, Any], fields: Set[str]) -> tuple[Mapping[str, Any], dict[str, str]]:
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
    if given.keys() <= fields:
        return given, problems
    if "scheduler" in fields:
        given = _with_schedule(given)
    named: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in given.items():
        name = key if key in fields else ALIASES.get(key, key)
        if name in written:
            problems[name] = f"given twice, as {written[name]} and as {key}; one wanted"
            continue
        written[name], named[name] = key, value
    return named, problems


def _with_schedule(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sampler and a schedule, given apart, as one; what is null is not given."""
    schedule = next((name for name in SCHEDULES if given.get(name) is not None), None)
    sampler = next((name for name in _SAMPLERS if given.get(name) is not None), None)
    if schedule is None and sampler is not None and _is_schedule(given.get("scheduler")):
        schedule = "scheduler"
    elif schedule is not None and sampler is None and isinstance(given.get("scheduler"), str):
        sampler = "scheduler"
    if (
        given.get("sampler_name") is not None and "sampler_index" in given
    ):  # the older name, of which the API has a default
        given = {name: value for name, value in given.items() if name != "sampler_index"}
    unsaid = (*_SAMPLERS, *SCHEDULES, *(("scheduler",) if sampler is not None else ()))
    nothing = {name for name in unsaid if name in given and given[name] is None}
    if schedule is None or sampler is None:
        return {name: value for name, value in given.items() if name not in nothing} if nothing else given
    rest = {name: value for name, value in given.items() if name not in nothing | {schedule, sampler}}
    return rest | {"scheduler": {"name": given[sampler], "schedule": given[schedule]}}


def _is_schedule(value: Any) -> bool:
    """Beside a sampler's name: what is no sampler itself, though it may be no schedule, either."""
    if isinstance(value, str):
        return schedule_of(value) is not None or not is_sampler(value)
    return value is not None and not isinstance(value, Mapping)


def nearest(name: str, fields: Collection[str]) -> str:
    """What a message says of an unknown field: the one that was meant, or the three whose names come nearest."""
    if name in SCHEDULES:
        return "a sampler wanted beside it, as sampler_name"
    if (meant := _MEANT.get(name.lower().replace(" ", "_"))) in fields:
        return f"did you mean {meant}?"
    known = [*fields, *(alias for alias, field in ALIASES.items() if field in fields)]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.0)
    if difflib.get_close_matches(name.lower(), near[:1], cutoff=0.7):
        return f"did you mean {near[0]}?"
    return f"the nearest are {', '.join(near)} (docs/prompt-sets.md has all)"


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
