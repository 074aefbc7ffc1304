"""Generation parameters as the Stable Diffusion web UIs write them (an infotext), read as the fields of a row.

    a lighthouse, <lora:film:0.8>
    Negative prompt: blurry
    Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 7, Size: 832x1216, Model: sd_xl_base_1.0

Everything up to `Negative prompt:` is the prompt, everything up to the line of settings the negative prompt. Some
settings say how a picture came about and change nothing, some have no field; the latter are named.
The form is that of AUTOMATIC1111's `create_infotext`, which Forge, SD.Next, Fooocus and Civitai write too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.input_picture import MAX_SIDE_PX
from pipeline.picture import MAX_STEPS

NEGATIVE = "Negative prompt:"
OWN_VERSION = "tessera"  # of what Tessera itself has written
MAX_SETTINGS = 1_000

_IS_SETTINGS = re.compile(r"\s*Steps: *\d{1,6} *(?:[,|]|$)")
_INLINE = re.compile(r"(?<=[^\s.,])[ .,]+(?=Steps: *\d{1,6} *,)")
_INLINE_NEGATIVE = re.compile(rf"(?<![ .,])[ .,]*\b{NEGATIVE}")
_BESIDE_STEPS = re.compile(r"[,|] *(?:Sampler|CFG scale|Seed|Size|Model|Model hash|Version): *\S")
_NAME = re.compile(r"[A-Za-z][^:,\n]{0,60}")
_SIZE = re.compile(r"(\d{1,6}) *x *(\d{1,6})")
_INTEGER, _NUMBER = re.compile(r"-?\d{1,20}"), re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
_BEHIND = re.compile(r"\s*(?:Negative )?Template: ")  # what the extension Dynamic Prompts writes behind the settings
_RULE = re.compile(r"\s*[-=_*#]{3,}\s*")  # a line between two infotexts of a file

# Field of a row, by the setting that is the same thing.
_SAME: Mapping[str, tuple[str, type]] = {
    "steps": ("steps", int),
    "cfg scale": ("guidance_scale", float),
    "seed": ("seed", int),
    "clip skip": ("clip_skip", int),
    "cfg rescale": ("guidance_rescale", float),
    "cfg rescale phi": ("guidance_rescale", float),
    "cfg rescale φ": ("guidance_rescale", float),
    "refiner switch at": ("refiner_switch_at", float),
}
# What says how a picture came about, and would change nothing about another.
_PROVENANCE = frozenset(
    {
        "version",
        "rng",
        "model hash",
        "vae hash",
        "lora hashes",
        "ti hashes",
        "hashes",
        "user",
        "created date",
        "civitai resources",
        "civitai metadata",
        "batch size",
        "batch pos",
        "time taken",
        "app",
        "pipeline",
        "parser",
        "backend",
        "operations",
    }
)
# Several settings that belong together.
_HIRES = frozenset({"hires upscale", "hires resize", "hires steps", "denoising strength"})
_SCHEDULES = ("schedule type", "schedule", "scheduler")  # of Civitai's kin, too
_KNOWN = frozenset({"sampler", *_SCHEDULES, "size", "model", *_SAME, *_PROVENANCE, *_HIRES})


@dataclass(frozen=True)
class Infotext:
    """What an infotext asks for.

    Attributes:
        fields: of a row, under our own names; a value that is none of its kind stays a text, for the row to refuse it.
        left_out: settings that no field holds, as they stood there.
        model, model_hash: of the checkpoint that made the picture, by its file's name and AutoV2; the deployment's
            names are others, so neither is part of the row.
    """

    fields: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    model: str | None = None
    model_hash: str | None = None


def is_settings_line(line: str) -> bool:
    """Whether a line is the last one of an infotext: `Steps: 30, Sampler: ...`."""
    return bool(_IS_SETTINGS.match(line) and _BESIDE_STEPS.search(line))


def of_one_line(line: str) -> str | None:
    """An infotext whose line ends were lost, as pages and spreadsheets lose them, with them; None if it is none."""
    found = _INLINE.search(line) if "Steps:" in line else None
    if found is None or not is_settings_line(settings := line[found.start() :].lstrip(" .,")):
        return None
    return _INLINE_NEGATIVE.sub(f"\n{NEGATIVE}", line[: found.start()], count=1) + f"\n{settings}"


def parse_infotext(text: str) -> Infotext | None:
    """What an infotext says; None if the text is none."""
    lines = text.splitlines()
    last = next((number for number in reversed(range(len(lines))) if is_settings_line(lines[number])), None)
    if last is None:
        return None
    before = [line.strip() for line in lines[:last]]
    end = next((number for number, line in enumerate(before) if line.startswith(NEGATIVE)), last)
    negative = "\n".join(before[end:]).removeprefix(NEGATIVE).strip()
    written = _settings(lines[last])
    settings = {name.lower(): value for name, value in written.items()}
    # No negative prompt zeroes the embeddings of SDXL there, as null does here.
    fields: dict[str, Any] = {"prompt": "\n".join(before[:end]).strip(), "negative_prompt": negative or None}
    if not negative and end < last and settings.get("version", "").startswith(OWN_VERSION):
        fields["negative_prompt"] = ""  # we write no line for null, and an empty one for the empty text
    fields |= _fields(settings)
    left_out = [f"{name}: {value}" for name, value in written.items() if name.lower() not in _KNOWN]
    if "denoising strength" in settings and "highres" not in fields:
        left_out.append(f"Denoising strength: {settings['denoising strength']} (made from another picture)")
    return Infotext(fields, tuple(left_out), settings.get("model"), settings.get("model hash"))


def infotexts_in(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Infotexts one behind the other, each with the number of its first line; what is left at the end is one, too.

    Each ends with its line of settings. Blank lines and lines of dashes between two belong to neither.
    """
    first, gathered = 0, list[str]()
    for number, line in lines:
        if not gathered and (not line.strip() or _RULE.fullmatch(line) or _BEHIND.match(line)):
            continue
        first = first if gathered else number
        gathered.append(line.rstrip("\r\n"))
        if is_settings_line(line):
            yield first, "\n".join(gathered)
            gathered = []
    if gathered:
        yield first, "\n".join(gathered)


def _settings(line: str) -> dict[str, str]:
    """`Name: value` parted by commas; a value may be quoted, or JSON, and then holds commas itself."""
    found: dict[str, str] = {}
    line = line.replace("|", ",") if "," not in line else line
    at = _after_blanks(line, 0)
    while at < len(line) and len(found) < MAX_SETTINGS:
        named = _NAME.match(line, at)
        if named is not None and line.startswith(":", named.end()):
            found[named[0].strip()], at = _value(line, _after_blanks(line, named.end() + 1))
        else:
            at = _after_comma(line, at)
    return found


def _value(line: str, at: int) -> tuple[str, int]:
    """The value that begins here, and where the next setting begins."""
    if line[at : at + 1] in ('"', "{", "["):
        try:
            value, end = json.JSONDecoder().raw_decode(line, at)
        except (ValueError, RecursionError):
            pass
        else:
            if line[end : end + 1] in ("", ",", " "):
                return value if isinstance(value, str) else line[at:end], _after_comma(line, end)
    end = _after_comma(line, at)
    return line[at:end].strip(", "), end


def _after_comma(line: str, at: int) -> int:
    comma = line.find(",", at)
    return len(line) if comma < 0 else _after_blanks(line, comma + 1)


def _after_blanks(line: str, at: int) -> int:
    while line[at : at + 1].isspace():
        at += 1
    return at


def _fields(settings: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, (name, kind) in _SAME.items():
        if key in settings:
            fields[name] = _number(settings[key], kind)
    # Of SDXL no web UI reads the last layer: A1111 and SD.Next pass over a clip skip of 1, and Forge makes 2 of it.
    if fields.get("clip_skip") == 1 and not settings.get("version", "").startswith(OWN_VERSION):
        del fields["clip_skip"]
    if sampler := settings.get("sampler"):
        schedule = next((settings[name] for name in _SCHEDULES if name in settings), None)
        fields["scheduler"] = f"{sampler} {schedule}" if schedule else sampler
    if found := _SIZE.fullmatch(settings.get("size", "")):
        width, height = int(found[1]), int(found[2])
        fields |= {"width": width, "height": height} | _highres(settings, width, height)
    elif "size" in settings:
        fields["size"] = settings["size"]
    return fields


def _highres(settings: Mapping[str, str], width: int, height: int) -> dict[str, Any]:
    resized = _SIZE.fullmatch(settings.get("hires resize", ""))
    return hires_fields(
        width,
        height,
        scale=_number(settings.get("hires upscale", ""), float),
        resized=(int(resized[1]), int(resized[2])) if resized else (0, 0),
        strength=_number(settings.get("denoising strength", ""), float),
        steps=_number(settings.get("hires steps", ""), int) or _number(settings.get("steps", ""), int),
    )


def hires_fields(
    width: int, height: int, *, scale: object, resized: tuple[object, object], strength: object, steps: object
) -> dict[str, Any]:
    """Hires. fix as fields of a row: the first pass has the size that is named, the second enlarges it.

    There, `steps` of the second pass are all walked; here, steps are a whole schedule of which the last share, the
    strength, is walked. Of what it is resized to, one side may be 0 and follows. Empty if nothing is enlarged.
    """
    if width < 1 or height < 1:
        return {}
    across, down = (side if type(side) is int else 0 for side in resized)
    if across or down:
        share = across / width if across else down / height
        sides = across or round(width * share), down or round(height * share)
    elif type(scale) in (int, float) and 1 < scale <= MAX_SIDE_PX:  # type: ignore[operator]  # a number by then
        sides = int(width * scale), int(height * scale)  # type: ignore[operator]  # likewise
    else:
        return {}
    highres: dict[str, Any] = {"mode": "refine", "base_px": round(math.sqrt(width * height))}
    if type(strength) in (int, float) and 0 < strength <= 1:  # type: ignore[operator]  # likewise
        highres["strength"] = strength
        if type(steps) is int:
            highres["steps"] = max(1, math.ceil(min(MAX_STEPS, steps / strength)))  # type: ignore[operator]  # likewise
    return {"width": sides[0], "height": sides[1], "highres": highres}


def _number(text: str, kind: type) -> Any:
    form = _INTEGER if kind is int else _NUMBER
    return kind(text) if form.fullmatch(text) else text
