"""Short texts for values that are objects: what a cell of a table or an option of the command line can hold.

    1024x1536                       a size, 1024 a square; 0,64 a crop
    16:9                            an aspect
    DPM++ 2M Karras, solver_order=3 a scheduler with settings
    film:0.8, grain                 LoRAs with scales
    refine, strength=0.4            the way to a large picture
    999, 845, 730, 587              timesteps, or sigmas
    0.2, 0.8                        an interval of the schedule
    1536x1024+256+0                 a canvas, and left and top of the image on it

A text that begins with { or [ is JSON. Errors are ValueErrors that say what was found and wanted.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.input_picture import MAX_SIDE_PX
from pipeline.loras import blocks
from pipeline.picture import MAX_STEPS, Scheduler
from pipeline.promptset.fields import lora_objects
from pipeline.promptset.names.samplers import scheduler_of

_PAIR = re.compile(r"\s*(\d{1,6})\s*[x×,*]\s*(\d{1,6})\s*", re.IGNORECASE)  # noqa: RUF001  # users write the sign too
_ASPECT = re.compile(r"\s*(\d{1,5}(?:\.\d{1,4})?)\s*[:/x]\s*(\d{1,5}(?:\.\d{1,4})?)\s*", re.IGNORECASE)
_CANVAS = re.compile(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*(?:\+\s*(\d{1,6})\s*\+\s*(\d{1,6})\s*)?", re.IGNORECASE)  # noqa: RUF001
MOST_EXTREME_ASPECT = 64
MAX_CHARACTERS = 10_000
_SYNTAX_OF: Mapping[str, str] = {
    **dict.fromkeys(
        ("automatic1111", "automatic", "auto1111", "webui", "forge", "reforge", "sdnext", "sd.next"), "a1111"
    ),
    **{"comfyui": "comfy"},
    **dict.fromkeys(("invokeai", "invoke"), "compel"),
    **dict.fromkeys(("literal", "plain", "text"), "none"),
}
_MOST_LORAS = 100  # that are looked at
_LORAS = 'LoRAs wanted, as film:0.8, grain or [{"name": "film", "scale": 0.8}]'
LAST_TIMESTEP = 999  # SDXL's schedule of noise has 1,000
MAX_SIGMA = 1e6


def size(value: object) -> tuple[int, int]:
    """Width and height: a text like 1024x1536, a list of two, or one number, the side of a square."""
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\s*\d{1,6}\s*", value) else value
    return (number, number) if type(number) is int else pair(value, "1024x1536, [1024, 1536], or 1024 for a square,")


def pair(value: object, form: str) -> tuple[int, int]:
    """Two whole numbers: a text like 1024x1536, or a list of two; `form` says in a message what is wanted."""
    value = _unpacked(value)
    if isinstance(value, str) and (match := _PAIR.fullmatch(value)):
        return int(match[1]), int(match[2])
    if isinstance(value, Sequence) and not isinstance(value, str) and [type(part) for part in value] == [int, int]:
        return value[0], value[1]
    raise ValueError(f"{shortened(value)} found; {form} wanted")


def canvas(value: object) -> tuple[int, int, int | None, int | None]:
    """Width and height of a canvas, left and top of the image on it: 1536x1024, or 1536x1024+256+0."""
    value = _unpacked(value)
    numbers: Sequence[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if isinstance(value, str) and (match := _CANVAS.fullmatch(value)):
        numbers = [None if part is None else int(part) for part in match.groups()]
    numbers = [*numbers, None, None] if len(numbers) == 2 else numbers
    sides, corner = numbers[:2], numbers[2:]
    if [type(part) for part in sides] != [int, int] or not all(0 < part <= MAX_SIDE_PX for part in sides):
        raise ValueError(f"{shortened(value)} found; 1536x1024 or 1536x1024+LEFT+TOP wanted, sides to {MAX_SIDE_PX} px")
    if len(corner) != 2 or not (
        corner == [None, None] or all(type(part) is int and 0 <= part <= MAX_SIDE_PX for part in corner)
    ):
        raise ValueError(f"{shortened(value)} found; left and top of the image wanted behind the size, from 0 on")
    return sides[0], sides[1], corner[0], corner[1]


def aspect(value: object) -> float:
    """Width through height: 16:9, or a number."""
    ratio = 0.0
    if isinstance(value, str) and (match := _ASPECT.fullmatch(value)):
        ratio = float(match[1]) / float(match[2]) if float(match[2]) else 0.0
    elif isinstance(value, str):
        ratio = float(value) if re.fullmatch(r"\s*\d{1,3}(\.\d{1,6})?\s*", value) else 0.0
    elif isinstance(value, int | float) and not isinstance(value, bool):
        ratio = float(value) if abs(value) <= MOST_EXTREME_ASPECT else 0.0
    if not math.isfinite(ratio) or not 1 / MOST_EXTREME_ASPECT <= ratio <= MOST_EXTREME_ASPECT:
        raise ValueError(f"{shortened(value)} found; width through height wanted, as 16:9 or 1.5")
    return ratio


def scheduler(value: object) -> Scheduler:
    """A scheduler: its name, its name with settings, or {"name", "settings", "schedule"}."""
    if isinstance(value, Scheduler):
        return scheduler_of(value.name, value.settings)
    if isinstance(value, str):
        return _scheduler_of_text(value)
    if isinstance(value, Mapping):
        name, given, schedule = value.get("name"), value.get("settings"), value.get("schedule")
        given = {} if given is None else given
        known = value.keys() <= {"name", "settings", "schedule"}
        if known and isinstance(name, str) and isinstance(given, Mapping) and isinstance(schedule, str | None):
            plain, settings = _named(name)
            return scheduler_of(plain, {**settings, **given}, schedule)
        if known and isinstance(name, str) and isinstance(given, Mapping):
            raise ValueError(f"{shortened(schedule)} found as the schedule; a name as Karras wanted")
    raise ValueError(
        f'{shortened(value)} found; a name as "DPM++ 2M Karras", or {{"name", "settings", "schedule"}} wanted'
    )


@functools.lru_cache(maxsize=256)
def _scheduler_of_text(text: str) -> Scheduler:
    value = _unpacked(text)
    if isinstance(value, str):
        return scheduler_of(*_named(value))
    return scheduler(value)


def timesteps(value: object) -> tuple[float, ...]:
    """Timesteps: a list of numbers, or a text like 999, 845, 730. One per step, falling, of SDXL's 0 to 999."""
    found = _falling(value, "999, 845, 730, 587")
    if found[0] > LAST_TIMESTEP or found[-1] < 0:
        raise ValueError(f"{found[0]:g} to {found[-1]:g} found; numbers from {LAST_TIMESTEP} to 0 wanted")
    return found


def sigmas(value: object) -> tuple[float, ...]:
    """Sigmas, likewise: 14.6, 6.3, 3.8. A last one of 0 is left out, for it always follows."""
    found = _falling(value, "14.615, 6.315, 3.771")
    found = found[:-1] if found[-1] == 0 else found
    if not found or found[-1] <= 0 or found[0] > MAX_SIGMA:
        raise ValueError(f"sigmas above 0 and up to {MAX_SIGMA:g} wanted, and at most a 0 behind them")
    return found


def interval(value: object) -> tuple[float, float]:
    """Two rising shares of the schedule: a list of two numbers, or a text like 0.2, 0.8."""
    value = _unpacked(value)
    if isinstance(value, str):
        value = [_value(part.strip()) for part in value.replace(";", ",").split(",")]
    numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if (
        len(numbers) != 2
        or any(type(one) not in (int, float) for one in numbers)
        or not 0 <= numbers[0] < numbers[1] <= 1
    ):
        raise ValueError(f"{shortened(value)} found; two rising numbers of 0 to 1 wanted, as 0.2, 0.8")
    return float(numbers[0]), float(numbers[1])


def _falling(value: object, form: str) -> tuple[float, ...]:
    value = _unpacked(value)
    if isinstance(value, str):
        value = [_value(part.strip()) for part in value.replace(";", ",").strip(" ,").split(",")]
    if not isinstance(value, Sequence) or not 0 < len(value) <= MAX_STEPS:
        raise ValueError(f"{shortened(value)} found; 1 to {MAX_STEPS} numbers wanted, as {form}")
    wrong = next((one for one in value if type(one) not in (int, float) or not math.isfinite(one)), None)
    if wrong is not None:
        raise ValueError(f"{shortened(wrong)} found; numbers wanted, as {form}")
    for place, (one, following) in enumerate(itertools.pairwise(value), 1):
        if not one > following:
            raise ValueError(f"{one:g}, {following:g} found at place {place}; each wanted smaller than the one before")
    return tuple(float(one) for one in value)


def syntax(value: object) -> object:
    """The name of a prompt syntax, by that of a program whose it is."""
    name = value.strip().lower() if isinstance(value, str) else value
    return _SYNTAX_OF.get(name, name) if isinstance(name, str) else name


def loras(value: object) -> object:
    """LoRAs as objects: from `film:0.8, grain`, `<lora:film:0.8>`, or a list of names, pairs and objects."""
    value = _unpacked(value)
    if isinstance(value, str):
        parts: list[object] = [part for part in value.split(",") if part.strip()]
        value = lora_objects.of_tags(value) or parts
    if isinstance(value, Mapping):
        value = lora_objects.of_mapping(value)
    if not isinstance(value, Sequence):
        raise ValueError(f"{shortened(value)} found; {_LORAS}")  # noqa: TRY004  # pydantic reads only these
    if len(value) > _MOST_LORAS:
        return value  # the field refuses it
    return [_lora(one) if isinstance(one, str) else _with_blocks(_lora_object(one)) for one in value]


def _lora_object(one: object) -> object:
    """One of a list, under our names. Raises ValueError for what is none."""
    found = lora_objects.of_one(one)
    if found is None:
        raise ValueError(f"{shortened(one)} found; {_LORAS}")
    return found


def lora_blocks(value: object) -> object:
    """Block weights of a LoRA as an object: from a list, a preset or an object as `pipeline/loras/blocks.py` has them.

    Numbers may be a list or a text. Of 26, those of blocks that SDXL does not have are left out.
    """
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        preset = blocks.of_preset(value)
        if preset is not None:
            return preset
        value = [part.strip() for part in value[:MAX_CHARACTERS].strip("[] ").split(",")]
    value = _unpacked(value)
    if isinstance(value, Mapping):
        if blocks.are_scales_of_diffusers(value):
            return blocks.of_scales(value)
        return {_block(name): factor for name, factor in value.items()}
    if not isinstance(value, Sequence) or len(value) not in blocks.FORMS:
        raise ValueError(
            f"{shortened(value)} found; block weights wanted: {blocks.WANTED}, or an object as "
            '{"IN04": 0.5} or {"up_blocks.0": 0}'
        )
    try:
        return blocks.of_list([float(number) for number in value])
    except (TypeError, ValueError):
        raise ValueError(f"{shortened(value)} found; numbers wanted as block weights") from None


def _with_blocks(lora: object) -> object:
    if isinstance(lora, Mapping) and lora.get("blocks"):
        return {**lora, "blocks": lora_blocks(lora["blocks"])}
    return lora


def _block(name: object) -> object:
    upper = name.upper() if isinstance(name, str) else ""
    if upper == "MID":
        return blocks.MIDDLE
    return upper if upper in blocks.SDXL_BLOCKS else name


def highres(value: object) -> object:
    """The way to a large picture as an object: from `refine, strength=0.4`."""
    value = _unpacked(value)
    if isinstance(value, bool | int | float) or (isinstance(value, Sequence) and not isinstance(value, str)):
        wanted = "auto, direct, refine or cascade wanted, as refine, strength=0.4"
        raise ValueError(f"{shortened(value)} found; {wanted}")  # noqa: TRY004  # pydantic reads only these
    if not isinstance(value, str):
        return value
    mode, settings = _named(value)
    if "mode" in settings:
        raise ValueError(f"{shortened(value)} found, which names two modes; one wanted, as refine, strength=0.4")
    return {"mode": mode.lower()} | settings


def _lora(text: str) -> dict[str, Any]:
    name, colon, scale = text.strip().rpartition(":")
    if not colon:
        return {"name": scale}
    try:
        return {"name": name.strip(), "scale": float(scale)}
    except ValueError:
        raise ValueError(f"{shortened(text)} found; NAME or NAME:SCALE wanted, as film:0.8") from None


def _named(text: str) -> tuple[str, dict[str, Any]]:
    name, *rest = (part.strip() for part in text.split(","))
    settings = {}
    for part in rest:
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"{shortened(part)} found; NAME, KEY=VALUE, KEY=VALUE wanted")
        settings[key.strip()] = _value(value.strip())
    return name, settings


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _unpacked(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError(f"{len(value):,} characters found; at most {MAX_CHARACTERS:,} wanted")
    if not (isinstance(value, str) and value.lstrip()[:1] in ("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"{shortened(value)} found, which begins like JSON and is none") from None


def shortened(value: object) -> str:
    """The value as a message shows it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
