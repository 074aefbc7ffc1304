"""Fields of other tools: the web UIs' API, ComfyUI, InvokeAI, Replicate, diffusers' pipelines and OpenAI's image API.

What has a field here under another name becomes it, what changes no picture is passed over, what would change it and
has no place here is named in a warning or, where the picture would be another one altogether, is an error. Values that
say nothing (null, false, an empty list) never matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, get_args

from pipeline.promptset.fields.kinds import plain_type
from pipeline.promptset.fields.row import Row
from pipeline.promptset.formats.cells import of_kind, two_numbers
from pipeline.promptset.formats.infotext import hires_fields
from pipeline.promptset.names.aliases import ALIASES

# Another tool's field: ours, of the same value.
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "positive": "prompt",
        "positive_prompt": "prompt",
        "negative": "negative_prompt",
        "positive_style_prompt": "prompt_2",
        "negative_style_prompt": "negative_prompt_2",
        "noise_seed": "seed",
        "sample_steps": "steps",
        "ckpt_name": "model",
        "sd_model": "model",
        "cfg_rescale_multiplier": "guidance_rescale",
        "samples": "num_images",
        "CLIP_stop_at_last_layers": "clip_skip",
    }
)
# What changes no picture here, and so is passed over.
PASSED_OVER = frozenset(
    [
        "user",
        "moderation",
        "response_format",
        "stream",
        "partial_images",
        "send_images",
        "save_images",
        "do_not_save_samples",
        "do_not_save_grid",
        "outpath_samples",
        "outpath_grids",
        "prompt_for_display",
        "styles_prompt",
        "rand_device",
        "return_dict",
        "output_type",
        "force_task_id",
        "infotext",
        "disable_safety_checker",
        "safety_checker",
        "enable_safety_checker",
        "go_fast",
        "control_after_generate",
        "firstpass_image",
        "override_settings_restore_afterwards",
        "generation_mode",
        "use_cpu",
        "callback_on_step_end",
        "disable_extra_networks",
        "apply_watermark",
        "firstphase_width",
        "firstphase_height",
        "comments",
    ]
)
# What would change a picture and has no place here: what a warning says of it.
IGNORED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("expand_prompt", "enhance_prompt", "prompt_upsampling", "prompt_extend", "magic_prompt"),
            "no prompt is rewritten",
        ),
        **dict.fromkeys(("style_preset", "preset_style"), "styles of other services are none of SDXL's"),
        "style": "styles of OpenAI's models are none of SDXL's; write it into the prompt",
        "styles": "styles of a web UI are not known here; write them into the prompt",
        "restore_faces": "no faces are restored",
        "subseed": "seeds are not mixed",
        "subseed_strength": "seeds are not mixed",
        "seed_resize_from_h": "seeds are not mixed",
        "seed_resize_from_w": "seeds are not mixed",
        "eta": "a setting of the scheduler: DDIM, eta=0.5",
        "s_churn": "samplers here have no churn",
        "s_tmin": "samplers here have no churn",
        "s_tmax": "samplers here have no churn",
        "s_noise": "samplers here have no churn",
        "s_min_uncond": "guidance is computed at every step",
        "hr_upscaler": "a second pass enlarges as docs/engine.md says",
        "hr_sampler_name": "both passes have one sampler",
        "hr_scheduler": "both passes have one sampler",
        "hr_prompt": "both passes have one prompt",
        "hr_negative_prompt": "both passes have one prompt",
        "hr_checkpoint_name": "both passes have one model",
        "refine": "a refiner is a setting of the model; refiner_switch_at says when it takes over",
        "refine_steps": "a refiner is a setting of the model; refiner_switch_at says when it takes over",
        "high_noise_frac": "a refiner is a setting of the model; refiner_switch_at says when it takes over",
        "refiner_checkpoint": "a refiner is a setting of the model; refiner_switch_at says when it takes over",
        "lora_scale": "a LoRA has its scale beside its name: film:0.8",
        "replicate_weights": "LoRAs are named in loras",
        "vae": "a model has its own VAE",
        "start_at_step": "a walk goes through all steps",
        "end_at_step": "a walk goes through all steps",
        "input_fidelity": "it is for pictures that are edited",
    }
)
# What asks for another kind of picture than one from a text.
REFUSED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("latent_image",), "no latent is read here")
    | dict.fromkeys(("init_images", "images"), "pictures inside a row are not read; image names a file or an object")
    | dict.fromkeys(("alwayson_scripts", "script_name", "script_args", "controlnet_units"), "no extensions run here")
    | {"text_prompts": "weighted texts are Stability's; prompt and negative_prompt hold them"}
    | {"tiling": "no picture tiles here", "sampler_cfg_function": "no extensions run here"}
)
_HIRES = (
    "enable_hr",
    "hr_scale",
    "hr_resize_x",
    "hr_resize_y",
    "hr_second_pass_steps",
    "denoising_strength",
    "denoise",
    "prompt_strength",
)
_SEVERAL = (*_HIRES, "batch_size", "override_settings", "crops_coords_top_left", "background")
# Objects in which other services have a row's fields, and what they have beside them.
_INSIDE = ("input", "parameters", "params")
_BESIDE = frozenset({"version", "webhook", "webhook_events_filter", "inputs", "nsfw", "censor_nsfw", "r2", "shared"})
FOREIGN = frozenset({*RENAMED, *PASSED_OVER, *IGNORED, *REFUSED, *_SEVERAL})
# Settings that a payload of the web UIs may carry for one picture.
_OVERRIDES = {"sd_model_checkpoint": "model", "CLIP_stop_at_last_layers": "clip_skip"}

# OpenAI's: of what it charges for, not of a file.
_QUALITIES = frozenset({"standard", "hd", "low", "medium", "high", "auto"})
_OPENAI_MODELS = re.compile(r"(?:dall-e|gpt-image|chatgpt-image)-?\w*")
# Values of these that say nothing, beside null, false and what is empty.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "subseed": (-1,),
    "refine": ("no_refiner",),
    "seed_resize_from_h": (-1,),
    "seed_resize_from_w": (-1,),
    "s_noise": (1,),
    "lora_scale": (0.6, 1),
    "high_noise_frac": (1, 0.8),
    "eta": (1,),
    "CLIP_stop_at_last_layers": (1,),  # of SDXL no web UI reads the last layer: it means SDXL's own, which is 2 here
}
_KINDS = {name: plain_type(field) for name, field in Row.model_fields.items()}
_NULLABLE = {name for name, field in Row.model_fields.items() if NoneType in get_args(field.annotation)}


@dataclass(frozen=True)
class Translated:
    """A row under our own names; what is to be said of it, and what is wrong with it, each with its field."""

    fields: Mapping[str, Any]
    warnings: tuple[tuple[str, str], ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


def is_foreign(item: Mapping[str, Any]) -> bool:
    """Whether a row may hold fields of other tools: seen in its names alone."""
    return "body" in item or not FOREIGN.isdisjoint(item) or any(name in item for name in _INSIDE)


def translated(item: Mapping[str, Any]) -> Translated:
    """The row in our own fields, as far as they are other tools', and nulls and 7.0 as tables have them."""
    body = item.get("body")
    if isinstance(body, Mapping) and "body" not in Row.model_fields:
        inside = _fields(body)
        return Translated({**item, "body": inside.fields}, inside.warnings, inside.problems)
    for name in _INSIDE:
        if isinstance(inner := item.get(name), Mapping):
            return _unwrapped({key: value for key, value in item.items() if key != name}, inner)
    return _fields(item)


def _unwrapped(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> Translated:
    """A row of a service that has its fields in an object: Replicate's `input`, Hugging Face's `parameters`."""
    beside = {key: value for key, value in outer.items() if key not in _BESIDE}
    if isinstance(text := outer.get("inputs"), str):
        beside["prompt"] = text
    twice = tuple((key, "given twice, beside the other fields and inside; one wanted") for key in beside.keys() & inner)
    found = _fields({**beside, **inner})
    return Translated(found.fields, found.warnings, (*found.problems, *twice))


def _fields(item: Mapping[str, Any]) -> Translated:
    fields = {name: value for name, value in item.items() if name not in FOREIGN}
    foreign = {name: value for name, value in item.items() if name in FOREIGN and not _says_nothing(name, value)}
    warnings, problems = list[tuple[str, str]](), list[tuple[str, str]]()
    for name, value in foreign.items():
        if name in RENAMED:
            if RENAMED[name] in fields:
                problems.append((RENAMED[name], f"given twice, as {RENAMED[name]} and as {name}; one wanted"))
            fields.setdefault(RENAMED[name], value)
        elif name in IGNORED:
            warnings.append((name, f"ignored: {IGNORED[name]}"))
        elif name in REFUSED:
            problems.append((name, f"{REFUSED[name]}; a row without it wanted"))
    if foreign.get("background") == "transparent":
        problems.append(("background", "transparent found; pictures are opaque here"))
    _several(foreign, fields, problems)
    _openai(fields, warnings)
    return Translated(_alike(fields), tuple(warnings), tuple(problems))


def _several(foreign: Mapping[str, Any], fields: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    """Fields that mean something together."""
    if (size := foreign.get("batch_size")) is not None:
        count = next((name for name in ("num_images", *ALIASES) if name in fields and _is("num_images", name)), None)
        each = fields.pop(count) if count else 1
        both = type(each) is int and type(size) is int
        fields["num_images"] = each * size if both else size
    crop = foreign.get("crops_coords_top_left")
    if isinstance(crop, list | tuple) and len(crop) == 2:
        fields["crop"] = [crop[1], crop[0]]
    overrides = foreign.get("override_settings")
    for name, value in overrides.items() if isinstance(overrides, Mapping) else ():
        if value is None or value in _NEUTRAL.get(name, ()):
            continue
        if (ours := _OVERRIDES.get(name)) in Row.model_fields:
            fields.setdefault(str(ours), value)
        else:
            problems.append(("override_settings", f"{ascii(name)[:60]} is no setting of a row here"))
    strengths = [name for name in ("denoising_strength", "denoise", "prompt_strength") if name in foreign]
    if strengths and any(_is("image", name) for name in fields) and not foreign.get("enable_hr"):
        fields.setdefault("strength", foreign[strengths[0]])
    if foreign.get("enable_hr"):
        sides = [fields.get(side) for side in ("width", "height")]
        if not all(type(side) is int and side > 0 for side in sides):
            problems.append(("enable_hr", "width and height wanted beside it"))
            return
        found = hires_fields(
            int(str(sides[0])),
            int(str(sides[1])),
            scale=foreign.get("hr_scale", 2.0),
            resized=(foreign.get("hr_resize_x", 0), foreign.get("hr_resize_y", 0)),
            strength=foreign.get("denoising_strength", 0.75),
            steps=foreign.get("hr_second_pass_steps") or fields.get("steps"),
        )
        fields.update(found)


def _is(field: str, name: str) -> bool:
    return name == field or ALIASES.get(name) == field


def _openai(fields: dict[str, Any], warnings: list[tuple[str, str]]) -> None:
    """OpenAI's values of fields that are called as ours."""
    if fields.get("quality") in _QUALITIES:
        quality = fields.pop("quality")
        if quality != "auto":
            warnings.append(("quality", f"{quality} ignored: it is of OpenAI's models; here, steps decide"))
    if fields.get("size") == "auto":
        del fields["size"]
    model = fields.get("model")
    if isinstance(model, str) and _OPENAI_MODELS.match(model):
        del fields["model"]
        warnings.append(("model", f"{model[:60]} ignored: OpenAI's; the deployment's own renders this"))
    lossless = str(fields.get("format", fields.get("output_format", "png"))).lower() == "png"
    if lossless and "quality" not in fields and fields.pop("output_compression", None) not in (None, 100):
        warnings.append(("output_compression", "ignored: a PNG loses nothing"))


def _alike(fields: dict[str, Any]) -> dict[str, Any]:
    """As in tables, nulls and empty texts are as what is left out, 7.0 is 7, and so is the text "7"."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        field = ALIASES.get(name, name)
        kind = _KINDS.get(field)
        if value is None and field in Row.model_fields and field not in _NULLABLE:
            continue
        if isinstance(value, str) and kind in (int, float, bool):
            if bare := value.strip():
                found[name] = value if two_numbers(kind, bare) else of_kind(kind, bare)
            continue
        found[name] = int(value) if type(value) is float and kind is int and value.is_integer() else value
    return found


def _says_nothing(name: str, value: object) -> bool:
    nothing = value is None or value is False or value in ("", [], {}) or (name in IGNORED and value == 0)
    return nothing or value in _NEUTRAL.get(name, ())
