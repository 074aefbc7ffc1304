"""Syntax in prompts that is not read: what it looks like, told apart from plain English with brackets."""

from __future__ import annotations

import functools
import re

from pipeline.picture import Syntax

_A1111, _COMFY, _COMPEL = Syntax.A1111, Syntax.COMFY, Syntax.COMPEL

# By a mark that every such text has: an example, who reads it, and what it looks like.
_LOOKS: dict[str, list[tuple[str, frozenset[Syntax], re.Pattern[str]]]] = {}


def _look(mark: str, example: str, read_by: tuple[Syntax, ...], pattern: str) -> None:
    _LOOKS.setdefault(mark, []).append((example, frozenset(read_by), re.compile(pattern)))


# A number behind a digit is a time, a verse or a ratio, unless words stand before the digit and the number has a point.
_BEFORE = r"(?:(?<=[^(\s\d:]:)|(?<=[^(\s\d:] :))"
_look(":", "(word:1.3)", (_A1111, _COMFY), rf":{_BEFORE}\s*[+-]?(?:\d?\.\d+|[1-9]\d?\.?)\s*\)")
_look(":", "(word:1.3)", (_A1111, _COMFY), r"\((?=[^():]{0,300}\d\s*:\s*[+-]?\d?\.\d+\s*\))[^():]{0,200}[^\W\d]")
# A1111 reads digits and points only; nobody reads a comma.
_look("(", "(word:1e3)", (_COMFY,), r":\s*[+-]?(?:\d*\.?\d+[eE][+-]?\d+|nan|inf)\s*\)")
_look("(", "(word:1,3)", (), r":(?<![()\d\s]:)\s*\d,\d{1,2}\s*\)")
_look("((", "((word))", (_A1111, _COMFY), r"\(\(\s*\w[^()]{0,200}\)\)")
_look("[[", "[[word]]", (_A1111,), r"\[\[\s*\w[^\[\]]{0,200}\]\]")
_look(
    "[",
    "[a:b:0.5]",
    (_A1111,),
    r"\[(?=[^\[\]]{0,200}[^\W\d])[^\[\]:]{0,200}:(?:[^\[\]:]{0,200}:\s*[\d.]+|\s*0?\.\d+)\s*\]",
)
_look("|", "[a|b]", (_A1111,), r"\[[^\[\]|]{1,200}\|[^\[\]]{0,200}\]")
_look("<", "<lora:name:0.8>", (_A1111,), r"<(?i:lora|lyco|hypernet):[^<>\s][^<>]*>")
_look(")+", "(words)++", (_COMPEL,), r"\)\+{1,4}(?=[\s,.)]|\Z)")
_look(")", "(words)1.4", (_COMPEL,), r"\)(?<=\w\))\d?\.\d+(?=[\s,)]|\.?\s|\Z)")
_look('"+', '"words"++', (_COMPEL,), r'"(?<=\w")\+{1,4}(?=[\s,.)]|\Z)')
_look(").", '("a", "b").and()', (_COMPEL,), r"\)\.(?:and|blend|swap)\(")
# In a headline all is in capitals; a sign stands in quotation marks.
_look("BREAK", "BREAK", (_A1111,), r"(?:[^A-Z\s\"'“]\s+|\A\s*)BREAK(?=\s+(?![A-Z]{2})[^\s\"'”]|,|\s*\Z)|,\s*BREAK\b")
_look("AND", "AND", (_A1111,), r"[a-z)\],.]\s+AND\s+[a-z(\[]")
_look("embedding:", "embedding:name", (_A1111, _COMFY, _COMPEL), r"(?:\A|[\s,(])embedding:[^\s,()]+")
_look("++", "word++", (_COMPEL,), r"(?<![\w+-])(?!c\+\+|(?i:notepad)\+\+)(?:[A-Za-z]{2,}|[a-z])\+{2,4}(?=[\s,.)]|\Z)")
# Of extensions that pick one at random before the prompt is read; {a|b} is an error in comfy.
WILDCARDS = ("__name__", "{a|b}")
_look("__", WILDCARDS[0], (), r"(?<!\w)__\w[\w/*.-]{0,60}?__(?!\w)")
_look("{", WILDCARDS[1], (_COMFY,), r"\{[^{}|]{1,200}\|[^{}]{1,200}\}")
# Signs of East Asian keyboards, which look like those of ASCII.
_WIDE = "\uff08word\uff1a1.3\uff09"
# Of other programs, which no syntax here has, and what to do.
ELSEWHERE = {
    "<random:a,b>": "SwarmUI's, which no syntax here reads but for <lora:...>; what it stands for wanted",
    "--ar 16:9": "a parameter of Midjourney; fields of a row wanted, as aspect or negative_prompt",
    "word::2": "a weight of Midjourney; (word:1.3) in syntax a1111 wanted",
    "{{word}}": "an emphasis of NovelAI, or a template's place; (word:1.1) in syntax a1111, or the text, wanted",
    "1.2::word::": "a weight of NovelAI; (word:1.2) in syntax a1111 wanted",
    "/imagine prompt:": "a command of Discord's; the prompt alone wanted",
    _WIDE: "a weight or a LoRA in full-width signs, which no syntax reads; ( : ) < > of ASCII wanted",
    "{prompt}": "a place for a prompt, as styles have; the prompt itself wanted there",
    "fox ### blurry": "a negative prompt as Stable Horde has it; negative_prompt wanted",
}
_look(
    "<",
    "<random:a,b>",
    (),
    r"<(?i:random|wildcard|alternate|fromto|segment|object|region|preset|setvar|var|repeat|trigger|embed)(?:\[[^\]]*\])?:",
)
_look("{prompt}", "{prompt}", (), r"\{prompt\}")
_look("###", "fox ### blurry", (), r"\S\s*###\s*\S")
_look("--", "--ar 16:9", (), r"(?:\s|\A)--(?:ar|aspect|no|stylize|chaos|niji|v|iw|weird|sref|cref)\s+[\w.:]")
_look("::", "word::2", (), r"[^\W\d_]::-?\d*\.?\d+(?=[\s,]|\.(?!\d)|\Z)")
_look("{{", "{{word}}", (), r"\{\{+[^{}|]{1,200}\}\}")
_look("::", "1.2::word::", (), r"(?:\A|[\s,])-?\d*\.?\d+::[^:]{1,200}::")
_look("/imagine", "/imagine prompt:", (), r"\A\s*/imagine\b")
_WEIGHT = r"[^()\uff08\uff09]{0,200}[^()\uff08\uff09\d\s]%s\s*[\d.\uff0e]+\s*"
_look("\uff08", _WIDE, (), r"\uff08" + _WEIGHT % r"[:\uff1a]" + r"[)\uff09]")
_look("\uff1a", _WIDE, (), r"\(" + _WEIGHT % r"\uff1a" + r"\)|<(?i:lora|lyco)\uff1a")
_look("\uff1c", _WIDE, (), r"\uff1c(?i:lora|lyco)[:\uff1a]")


# What A1111 does not read in a negative prompt.
_NOT_IN_NEGATIVE = ("<", "AND")


@functools.cache
def _unread_by(syntax: Syntax, negative: bool) -> tuple[tuple[str, tuple[tuple[str, re.Pattern[str]], ...]], ...]:
    """What this syntax does not read: a mark that every such text has, and of each an example, what it looks like."""
    found = {
        mark: tuple(
            (example, pattern)
            for example, read_by, pattern in looks
            if syntax not in read_by or (negative and mark in _NOT_IN_NEGATIVE)
        )
        for mark, looks in _LOOKS.items()
    }
    return tuple((mark, looks) for mark, looks in found.items() if looks)


def unread(text: str, syntax: Syntax = Syntax.NONE, *, negative: bool = False) -> str | None:
    """What a prompt holds that looks like prompt syntax and is not read as such, by an example; None if nothing does.

    Plain English is not taken for it: `(16:9)`, `(see below)`, `[sic]`, `C++`, "ROCK AND ROLL".
    """
    for mark, looks in _unread_by(syntax, negative):
        if mark in text:
            for example, pattern in looks:
                if pattern.search(text):
                    return example
    return None
