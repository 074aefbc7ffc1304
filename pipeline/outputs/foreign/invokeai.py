"""Files of InvokeAI: `invokeai_metadata` of version 3 and later, `sd-metadata` of version 2, and the older `Dream`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.outputs.foreign.found import ForeignPicture, Found, NotCarriedOver, number, parsed_json

# What says how the picture came about, and would change nothing about another.
_PROVENANCE = frozenset(
    {
        "app_version",
        "generation_mode",
        "rand_device",
        "positive_prompt",
        "negative_prompt",
        "positive_style_prompt",
        "negative_style_prompt",
        "width",
        "height",
        "seed",
        "cfg_scale",
        "cfg_rescale_multiplier",
        "steps",
        "scheduler",
        "model",
        "loras",
        "clip_skip",
        "canvas_v2_metadata",
        "seamless_x",
        "seamless_y",
    }
)
_PLAIN_MODES = ("sdxl_txt2img", "txt2img")
_DREAM = {"s": ("steps", int), "W": ("width", int), "H": ("height", int), "C": ("guidance_scale", float)}
_OPTION = re.compile(r"-([A-Za-z])(\S*)")
_UNWANTED = re.compile(r"\[([^\[\]]*)\]")


def read(texts: Mapping[str, str]) -> ForeignPicture | None:
    """The picture of one of InvokeAI's texts; None if there is none. Raises NotCarriedOver."""
    if "invokeai_metadata" in texts:
        return _metadata(parsed_json(texts["invokeai_metadata"], "invokeai_metadata"))
    if "sd-metadata" in texts:
        return _sd_metadata(parsed_json(texts["sd-metadata"], "sd-metadata"))
    return _dream(texts["Dream"]) if "Dream" in texts else None


def _metadata(given: Any) -> ForeignPicture:
    if not isinstance(given, Mapping):
        raise NotCarriedOver("invokeai_metadata is no object")
    mode = given.get("generation_mode") or _PLAIN_MODES[0]
    if mode not in _PLAIN_MODES:
        raise NotCarriedOver(f"generation_mode {str(mode)[:40]!r}; a picture made from its prompt alone wanted")
    found = Found({"syntax": "compel"})
    prompt = _text(given.get("positive_prompt"), "positive_prompt")
    found.row["prompt"] = prompt
    # Its encoders zero what is empty (`zero_on_empty`), as null does here.
    found.row["negative_prompt"] = _text(given.get("negative_prompt") or "", "negative_prompt").strip() or None
    for name, field in (("positive_style_prompt", "prompt_2"), ("negative_style_prompt", "negative_prompt_2")):
        style = given.get(name)
        if isinstance(style, str) and style.strip() and style != found.row.get(field.removesuffix("_2")):
            found.row[field] = style
    for name, kind in (("width", int), ("height", int), ("steps", int)):
        found.put(name, given.get(name), kind)
    found.put("guidance_scale", given.get("cfg_scale"), float)
    if given.get("cfg_rescale_multiplier"):
        found.put("guidance_rescale", given["cfg_rescale_multiplier"], float)
    found.seed(given.get("seed"))
    if isinstance(given.get("scheduler"), str):
        found.row["scheduler"] = given["scheduler"]
    found.row["loras"] = _loras(given.get("loras"), found)
    if given.get("rand_device") not in (None, "cpu"):
        found.leave_out(f"rand_device {given['rand_device']!r}: noise is drawn on the CPU here, so it is another")
    if given.get("seamless_x") or given.get("seamless_y"):
        found.leave_out("seamless tiling")
    for name, value in given.items():
        if name not in _PROVENANCE and value not in (None, False, [], {}, "", 0):
            found.leave_out(f"{name} {_name_of(value) or value}")
    version = str(given.get("app_version", "")).strip()
    model = given.get("model")
    digest = model.get("hash") if isinstance(model, Mapping) else None
    return ForeignPicture(
        f"InvokeAI {version}".strip()[:60],
        found.row,
        tuple(found.left_out),
        _name_of(model),
        digest if isinstance(digest, str) else None,
    )


def _loras(given: Any, found: Found) -> list[dict[str, Any]]:
    loras = []
    for one in given[:100] if isinstance(given, list) else []:
        name = _name_of(one.get("model") or one.get("lora")) if isinstance(one, Mapping) else None
        scale = number(one.get("weight", 1.0), float) if isinstance(one, Mapping) else None
        if name is None or scale is None:
            found.leave_out(f"lora {one!r}")
        else:
            loras.append({"name": name, "scale": scale})
    return loras


def _sd_metadata(given: Any) -> ForeignPicture:
    image = given.get("image") if isinstance(given, Mapping) else None
    if not isinstance(image, Mapping):
        raise NotCarriedOver("sd-metadata has no image")
    if image.get("type", "txt2img") != "txt2img":
        raise NotCarriedOver(
            f"its type is {str(image.get('type'))[:40]!r}; a picture made from its prompt alone wanted"
        )
    found = Found({"syntax": "compel"})
    prompt = image.get("prompt")
    if isinstance(prompt, list):  # parts with weights, one as a rule
        texts = [part.get("prompt", "") for part in prompt if isinstance(part, Mapping)]
        if len(texts) > 1:
            found.leave_out(f"weights of {len(texts)} prompts, which are one here")
        prompt = " ".join(map(str, texts))
    _prompts(found, _text(prompt, "prompt"))
    for name, field, kind in (
        ("steps", "steps", int),
        ("width", "width", int),
        ("height", "height", int),
        ("cfg_scale", "guidance_scale", float),
    ):
        found.put(field, image.get(name), kind)
    found.seed(image.get("seed"))
    if isinstance(image.get("sampler"), str):
        found.row["scheduler"] = image["sampler"]
    for name in ("threshold", "perlin", "variations", "postprocessing", "facetool", "upscale", "hires_fix", "seamless"):
        if image.get(name):
            found.leave_out(f"{name} {image[name]!r}")
    weights = given.get("model_weights")
    return ForeignPicture(
        f"InvokeAI {given.get('app_version', '')}".strip()[:60],
        found.row,
        tuple(found.left_out),
        str(weights) if weights else None,
        given.get("model_hash") if isinstance(given.get("model_hash"), str) else None,
    )


def _dream(text: str) -> ForeignPicture:
    """A command line: `"prompt" -s 50 -S 1234 -W 512 -H 512 -C 7.5 -A k_lms`."""
    try:
        words = shlex.split(text[:100_000])
    except ValueError as error:
        raise NotCarriedOver(f"Dream is no command line ({error})") from error
    found = Found({"syntax": "compel"})
    options = [(number, match) for number, word in enumerate(words) if (match := _OPTION.fullmatch(word))]
    prompt = words[: options[0][0] if options else None]
    ends = [*(number for number, _ in options[1:]), len(words)]
    for (start, match), end in zip(options, ends, strict=True):
        letter, value = match[1], " ".join([*filter(None, [match[2]]), *words[start + 1 : end]])
        if letter in _DREAM:
            found.put(_DREAM[letter][0], value, _DREAM[letter][1])
        elif letter == "S":
            found.seed(value)
        elif letter == "A":
            found.row["scheduler"] = value
        else:
            found.leave_out(f"-{letter} {value}")
    _prompts(found, _text(" ".join(prompt), "Dream"))
    return ForeignPicture("InvokeAI 1", found.row, tuple(found.left_out))


def _prompts(found: Found, text: str) -> None:
    """In versions 1 and 2 the negative prompt stands in square brackets."""
    unwanted = ", ".join(part.strip() for part in _UNWANTED.findall(text) if part.strip())
    found.row["prompt"] = " ".join(_UNWANTED.sub(" ", text).split())
    found.row["negative_prompt"] = unwanted  # the empty text is encoded there


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise NotCarriedOver(f"its {what} is no text")
    return value


def _name_of(model: Any) -> str | None:
    """Of a model as versions 3 (`model_name`) and 4 (`name`) write it."""
    if not isinstance(model, Mapping):
        return None
    name = model.get("name") or model.get("model_name")
    return name if isinstance(name, str) else None
