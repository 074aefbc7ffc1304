"""Texts that are no prompts a line, as a whole: told by their form, and refused with what to do.

Only what no prompt looks like: a line of a form that prose never has, or all lines of a form that a single prompt
might have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pipeline.errors import RequestError
from pipeline.promptset.fields.row import Row
from pipeline.promptset.formats.infotext import is_settings_line
from pipeline.promptset.names.aliases import ALIASES

# prompt: a fox, of YAML and of notes; negative_prompt = "blurry", of code.
LABEL = re.compile(
    r"\s*(?:-\s+)?[\"']?(?:(?:(?:positive|negative)[ _-]?|/imagine )?prompt|negative)[\"']?\s*[:=](?!=)", re.IGNORECASE
)
LABELLED = "labels found, as prompt: of YAML, of notes, of chats or of code, which would be painted"
_ONLY_PROMPTS = "only the prompts wanted, one a line"
_FIELDS = f"{_ONLY_PROMPTS}, or CSV or JSON Lines with fields"

# One line of these is enough.
_ANYWHERE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"```"), "code fences (```) found, as of Markdown"),
    (re.compile(r"(?:\|\s*)?(?::?-{3,}:?\s*\|\s*)+(?::?-{3,}:?)?$"), "a table of Markdown found"),
    (re.compile(r"\\(?:begin|end|documentclass|usepackage|section|item)\b"), "LaTeX found"),
    (re.compile(r"(?:\d+:)?\d\d:\d\d[,.]\d{3} *--> *(?:\d+:)?\d\d:\d\d[,.]\d{3}"), "subtitles found"),
    (re.compile(r"(?s:.)*</[A-Za-z][\w:.-]*\s*>"), "markup found, as of XML"),
)
# All lines of these.
_IMAGE = r"(?!.*\s--\w)\S(?:[^|\t]*\S)?\.(?:png|jpe?g|webp|gif|bmp|txt|caption|safetensors|ckpt)"
_EVERY: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:https?|ftp|s3|file)://\S+$"), "addresses found, which are not fetched"),
    (re.compile(r"[0-9a-f]{32,128}(?:\s+\*?\S+)?$", re.IGNORECASE), "checksums found"),
    (re.compile(rf"{_IMAGE}$", re.IGNORECASE), "names of files found"),
    (re.compile(rf"{_IMAGE}\s*[|\t]", re.IGNORECASE), "names of files with captions found, as for training"),
    (
        re.compile(r"(?=\S*[A-Z])(?=\S*[a-z])(?=\S*\d)[A-Za-z0-9+/_-]{60,}={0,2}$"),
        "encoded bytes found, as of base64",
    ),
    (re.compile(r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d"), "a log found"),
)
# Where there are several lines, all of these; of code, the last has no comma.
_SEVERAL: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[\s\d.,;:#/+-]*$"), "numbers found"),
    (re.compile(r"([\"']).*\1\s*,$"), "a list of code found"),
)
# The first line.
_FIRST: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"WEBVTT\b"), "subtitles found"),
    (
        re.compile(r"\s*(?:export\s+)?(?:(?:const|let|var)\s+)?\w+\s*(?::\s*\w[\w\[\]]*\s*)?=\s*[\[{(]\s*$"),
        "code found",
    ),
    (re.compile(r"\s*(?:import [\w.]+\s*$|from [\w.]+ import |def \w+\(|#!/|#include\b)"), "code found"),
)
_SECTION = re.compile(r"\s*\[{1,2}[\w.\- ]+\]{1,2}\s*$")
_SETTING = re.compile(r"\s*[\w.-]+\s*=\s*\S")
_KEY, _ENTRY = re.compile(r"\s*[\w./-]+:\s*$"), re.compile(r"\s+\S|\s*-\s")
_HEADER = re.compile(r"(?:From|To|Cc|Subject|Date|Message-ID|MIME-Version|Content-Type|Received): ", re.IGNORECASE)


def refuse_other_forms(lines: Sequence[str], name: str) -> None:
    """Raise RequestError if lines are clearly no prompts: of JSON, of a table, of code."""
    if not lines:
        return
    first = lines[0].strip()
    if first[:1] in ("{", "[") and _is_json(lines):
        form, how = ("json", "an array") if first[0] == "[" else ("jsonl", "JSON Lines")
        raise RequestError(f"{name}: {how} found; say --input-format {form}, or name it .{form}")
    _refuse_tables(lines, name)
    if not any(is_settings_line(line) for line in lines) and LABEL.match(first):
        raise RequestError(f"{name}: {LABELLED}; {_FIELDS}")
    if found := _other_form(lines):
        raise RequestError(f"{name}: {found}; {_FIELDS}")


def _refuse_tables(lines: Sequence[str], name: str) -> None:
    first = lines[0].strip()
    for delimiter, form in (("\t", ".tsv"), (",", ".csv"), (";", ".csv"), ("|", ".csv")):
        cells = [cell.strip().strip('"').lower().replace(" ", "_") for cell in first.split(delimiter)]
        known = [cell for cell in cells if cell in Row.model_fields or cell in ALIASES]
        if "prompt" in cells and (len(known) == len(cells) or (delimiter == "\t" and len(cells) > 1)):
            raise RequestError(f"{name}: a table with a header found; say --input-format csv, or name it {form}")
    tabs = {line.rstrip("\r\n").count("\t") for line in lines}
    if len(lines) > 2 and len(tabs) == 1 and tabs != {0}:
        raise RequestError(
            f"{name}: columns parted by tabs found; a header with the names of fields before them wanted, and a name "
            "that ends in .tsv"
        )


def _other_form(lines: Sequence[str]) -> str | None:
    first = lines[0]
    second = lines[1] if len(lines) > 1 else ""
    for pattern, found in _FIRST:
        if pattern.match(first):
            return found
    if _SECTION.match(first) and _SETTING.match(second):
        return "sections and settings found, as of TOML or INI"
    if _KEY.match(first) and _ENTRY.match(second):
        return "keys with lists found, as of YAML"
    if _HEADER.match(first) and _HEADER.match(second):
        return "the head of a mail found"
    lines = [line.strip() for line in lines]
    for pattern, found in _ANYWHERE:
        if any(pattern.match(line) for line in lines):
            return found
    for pattern, found in _EVERY:
        if all(pattern.match(line) for line in lines):
            return found
    for pattern, found in _SEVERAL if len(lines) > 1 else ():
        if all(pattern.match(line) for line in (*lines[:-1], lines[-1].rstrip(",") + ",")):
            return found
    return None


def _is_json(lines: Sequence[str]) -> bool:
    """Whether the text begins with JSON: a line that is, or an object or array over several."""
    first = lines[0].strip()
    try:
        return isinstance(json.loads(first), dict | list)
    except RecursionError:
        return True
    except ValueError:
        following = lines[1].strip() if len(lines) > 1 else ""
        return first in ("{", "[") or first.startswith(('{"', '["', "[{")) or following.startswith('"')
