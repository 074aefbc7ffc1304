"""Lines of options as other programs read them: the web UIs' "Prompts from file", and kohya's sample prompts.

    --prompt "a fox" --negative_prompt "blurry" --steps 20 --width 832
    a fox --n blurry --w 1024 --h 1024 --d 42 --l 7 --s 30

Sources: scripts/prompts_from_file.py of the web UI, library/train_util.py and gen_img.py of sd-scripts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.errors import RowError
from pipeline.promptset.fields.row import Row
from pipeline.promptset.formats.lines import Item
from pipeline.promptset.syntax.escape import keep_weights_alone

# The web UI's options: how a value is read. What has no field here is told of where other tools' fields are.
_TEXTS = frozenset(
    [
        "prompt",
        "negative_prompt",
        "styles",
        "sampler_name",
        "scheduler",
        "schedule_type",
        "sd_model",
        "outpath_samples",
        "outpath_grids",
        "prompt_for_display",
        "sampler_index",
    ]
)
_INTEGERS = frozenset(
    ["seed", "subseed", "seed_resize_from_h", "seed_resize_from_w", "batch_size", "n_iter", "steps", "width", "height"]
)
_NUMBERS = frozenset({"subseed_strength", "cfg_scale"})
_FLAGS = frozenset({"restore_faces", "tiling", "do_not_save_samples", "do_not_save_grid"})
_WEB_UI = _TEXTS | _INTEGERS | _NUMBERS | _FLAGS
_LONG = frozenset({"prompt", "negative_prompt"})  # go on to the next option

# kohya's options: field and kind.
_KOHYA: Mapping[str, tuple[str, type]] = {
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("guidance_scale", float),
    "n": ("negative_prompt", str),
    "ss": ("scheduler", str),
    "ow": ("original_width", int),
    "oh": ("original_height", int),
    "cl": ("crop_left", int),
    "ct": ("crop_top", int),
}
# Options of Midjourney: what says the same here, if something does.
_MIDJOURNEY: Mapping[str, str | None] = {
    "ar": "aspect",
    "aspect": "aspect",
    "no": "negative_prompt",
    "seed": "seed",
    **dict.fromkeys(("v", "version", "niji", "q", "quality", "stylize", "style", "chaos", "c", "weird", "iw", "tile")),
    **dict.fromkeys(("sref", "sw", "cref", "cw", "oref", "ow", "profile", "p", "stop", "repeat", "r", "raw", "fast")),
    **dict.fromkeys(
        ("relax", "turbo", "draft", "video", "uplight", "upbeta", "hd", "creative", "test", "testp", "exp")
    ),
}
_OPTION = re.compile(r"(?:^|(?<=\s))--([A-Za-z][\w-]*)(?=\s|=|$)")
_VALUES = {int: re.compile(r"-?\d{1,20}"), float: re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")}


def option_line(number: int, line: str) -> Item | None:
    """The row of a line with options; None if it has none."""
    if "--" not in line:
        return None
    options = [found[1] for found in _OPTION.finditer(line)]
    if not options:
        return None
    if line.lstrip().startswith("--") and options[0] in _WEB_UI:
        return _web_ui(number, line)
    options = [option.lower() if option.lower() in _KOHYA else option for option in options]
    if all(option in _KOHYA for option in options):
        return _kohya(number, line)
    strange = next(option for option in options if option not in _KOHYA)
    if all(option in _MIDJOURNEY or option in _KOHYA for option in options):
        says = [f"{field} for --{option}" for option in options if (field := _MIDJOURNEY.get(option))]
        fields = f" There are fields: {', '.join(says)}." if says else ""
        what = f"--{strange} found, an option of Midjourney, which SDXL does not know.{fields} Rows with fields wanted"
        return RowError(number, None, f"{what}, as CSV or JSON Lines")
    return RowError(
        number,
        None,
        f"--{strange[:40]} found, which looks like an option and is none that is known: the web UI's "
        "--prompt TEXT --steps N ..., or kohya's PROMPT --n TEXT --w N --h N --d N --l N --s N. If it is part of a "
        "prompt, give it as CSV or JSON Lines",
    )


def as_a1111(row: dict[str, Any]) -> dict[str, Any]:
    """The row, whose prompt was written for the web UIs' syntax."""
    return row | {"syntax": "a1111"} if "syntax" in Row.model_fields else row


def _web_ui(number: int, line: str) -> Item:
    try:
        words = _words(line)
    except ValueError:
        return RowError(number, None, 'a quote is not closed; the whole prompt in quotes wanted: --prompt "a fox"')
    row: dict[str, Any] = {}
    at = 0
    while at < len(words):
        name = words[at].removeprefix("--")
        if not words[at].startswith("--") or name not in _WEB_UI:
            known = ", ".join(f"--{option}" for option in sorted(_WEB_UI))
            return RowError(number, None, f"{words[at][:40]!r} is none of the options: {known}")
        if name in row:
            return RowError(number, name, "given twice; one wanted")
        end = at + 2
        while name in _LONG and end < len(words) and not words[end].startswith("--"):
            end += 1
        if end > len(words):
            return RowError(number, name, "no value found behind it")
        row[name] = _option_value(name, " ".join(words[at + 1 : end]))
        at = end
    return as_a1111(row)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an apostrophe is no quote
        reader = shlex.shlex(line, posix=True)
        reader.whitespace_split, reader.quotes, reader.commenters = True, '"', ""
        return list(reader)


def _option_value(name: str, text: str) -> Any:
    """The value as its kind has it; a text that is none stays one, for the field to refuse it."""
    if name in _FLAGS:
        return {"true": True, "false": False}.get(text.lower(), text)
    kind = int if name in _INTEGERS else float if name in _NUMBERS else str
    return text if kind is str or not _VALUES[kind].fullmatch(text) else kind(text)


def _kohya(number: int, line: str) -> Item:
    found = list(_OPTION.finditer(line))
    row: dict[str, Any] = {"prompt": line[: found[0].start()].strip()}
    for option, following in zip(found, [*found[1:], None], strict=True):
        name, kind = _KOHYA[option[1].lower()]
        text = line[option.end() : following.start() if following else len(line)].strip(" \t\r\n=")
        if name in row:
            return RowError(number, None, f"--{option[1]} given twice; one wanted")
        if kind is not str and not _VALUES[kind].fullmatch(text):
            wanted = "a whole number" if kind is int else "a number"
            return RowError(number, name, f"{text[:20]!r} found behind --{option[1]}; {wanted} wanted")
        row[name] = kind(text)
    for name in ("prompt", "negative_prompt"):
        if name in row:
            row[name] = keep_weights_alone(row[name])
    for field, names in (("original_size", ("original_width", "original_height")), ("crop", ("crop_left", "crop_top"))):
        parts = [row.pop(name, None) for name in names]
        if parts != [None, None]:
            if None in parts:
                return RowError(number, field, "one of its two options found; both wanted")
            row[field] = parts
    return as_a1111(row)
