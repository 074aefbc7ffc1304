"""Rows out of plain text: a prompt a line, unless the text is clearly something else.

Infotexts and lines of options are read as what they are. What would be painted as letters is refused: JSON, a table,
code, comments unless they are asked for, wildcards that another program fills in.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from pipeline.errors import RowError, RowWarning
from pipeline.promptset.formats.infotext import infotexts_in, is_settings_line, of_one_line, parse_infotext
from pipeline.promptset.formats.lines import LONE_RETURNS, EmptyLines, Item, Line, ReadOptions
from pipeline.promptset.formats.optionlines import as_a1111, option_line
from pipeline.promptset.formats.other_forms import LABEL, LABELLED, refuse_other_forms

_LOOKED_AT = 1_000  # lines that say what the text is
_LOOKED_AT_CHARACTERS = 1 << 20
_WILDCARD = re.compile(r"__[\w/*.\-]{1,80}__|\{[^{}|]{0,200}\|[^{}]{0,2000}\}|\{\d+(?:-\d+)?\$\$|\$\{[A-Za-z]\w*[=}]")
_LISTED = re.compile(r"\s*(?:\d{1,6}[.)]|[-*\u2022])\s+\S")  # 1. or - or *, or a bullet
_COMMENT = re.compile(r"\s*(?:#|//)")
_QUOTED = re.compile(r"\s*([\"'\u201c\u2018])[^\"'\u201d\u2019]*[\"'\u201d\u2019]\s*$")


def text_rows(lines: Iterator[Line], empty: EmptyLines, options: ReadOptions) -> Iterator[tuple[int, Item]]:
    """The rows of a text. Raises RequestError if the whole is something else."""
    begin, size = list[Line](), 0
    for one in lines:
        begin.append(one)
        size += len(one[1]) if isinstance(one[1], str) else 0
        if len(begin) >= _LOOKED_AT or size > _LOOKED_AT_CHARACTERS:
            break
    texts = [line for _, line in begin if isinstance(line, str) and line.strip()]
    if options.comments:
        texts = [line for line in texts if not line.lstrip().startswith("#")]
    refuse_other_forms(texts, empty.name)
    all_lines = itertools.chain(begin, lines)
    if any(is_settings_line(line) for line in texts):
        yield from _infotexts(all_lines)
        return
    quoted = len(texts) > 1 and all(_QUOTED.match(line) for line in texts)
    for number, line in all_lines:
        if isinstance(line, RowError):
            yield number, line
        elif not line.strip() or (options.comments and line.lstrip().startswith("#")):
            empty.add()
        elif (infotext := of_one_line(line)) is not None:
            yield from _of_infotext(number, infotext)
        else:
            if _LISTED.match(line):
                yield number, RowWarning(number, None, "it begins as of a list, and that is part of its prompt")
            if quoted:
                yield number, RowWarning(number, None, "it is in quotes, which are part of its prompt")
            yield number, _row(number, line)


def _row(number: int, line: str) -> Item:
    prompt = line.strip()
    if "\r" in prompt:
        return RowError(number, None, LONE_RETURNS)
    row = option_line(number, prompt)
    if row is None:
        row = {"prompt": prompt}
        if _COMMENT.match(prompt):
            how = "--comments leaves lines with # out" if prompt[0] == "#" else "leave it out"
            return RowError(
                number, None, f"it begins as a comment: {how}; a prompt that begins so goes into CSV or JSON"
            )
        if LABEL.match(prompt):
            return RowError(
                number,
                None,
                f"{LABELLED}; only the prompt wanted, or CSV or JSON Lines, which have negative_prompt, too",
            )
    if isinstance(row, dict) and (found := _WILDCARD.search(str(row.get("prompt", "")))):
        form = "__NAME__" if found[0].startswith("__") else "{A|B}"
        return RowError(
            number,
            "prompt",
            f"a wildcard found, as {form}, which another program fills in: fill it in first, and submit what comes of "
            "it. If it is part of the prompt, give it as CSV or JSON Lines",
        )
    return row


def _infotexts(lines: Iterator[Line]) -> Iterator[tuple[int, Item]]:
    broken: list[RowError] = []

    def texts() -> Iterator[tuple[int, str]]:
        for number, line in lines:
            if isinstance(line, RowError):
                broken.append(line)
            else:
                yield number, line

    for number, text in infotexts_in(texts()):
        yield from ((error.line, error) for error in broken)
        broken.clear()
        yield from _of_infotext(number, text)
    yield from ((error.line, error) for error in broken)


def _of_infotext(number: int, text: str) -> Iterator[tuple[int, Item]]:
    found = parse_infotext(text)
    if found is None:
        yield number, RowError(number, None, "no line of settings (Steps: 30, Sampler: ...) found at its end")
        return
    for one in found.left_out:
        yield number, RowWarning(number, None, f"not carried over: {one.partition(':')[0]}")
    if found.model is not None:
        message = "not carried over: the checkpoint's name; say a model of the deployment, or its own renders this"
        yield number, RowWarning(number, "model", message)
    yield number, as_a1111(dict(found.fields))
