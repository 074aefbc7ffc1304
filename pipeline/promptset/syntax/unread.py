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


# A number behind a digit is a time, a verse or a ratio.
_look("(", "(word:1.3)", (_A1111, _COMFY), r"\([^()]{0,400}[^()\d\s]:(?:\s*[+-]?\d?\.\d+|[+-]?[1-9]\.?)\s*\)")
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
_look(").", '("a", "b").and()', (_COMPEL,), r"\)\.(?:and|blend|swap)\(")
# In a headline all is in capitals; a sign stands in quotation marks.
_look("BREAK", "BREAK", (_A1111,), r"(?:[^A-Z\s\"'“]\s+|\A\s*)BREAK(?=\s+[^A-Z\s\"'”]|,|\s*\Z)|,\s*BREAK\b")
_look("AND", "AND", (_A1111,), r"[a-z)\],.]\s+AND\s+[a-z(\[]")
_look("embedding:", "embedding:name", (_A1111, _COMFY, _COMPEL), r"(?:\A|[\s,(])embedding:[^\s,()]+")
_look("++", "word++", (_COMPEL,), r"(?<![\w+-])(?!c\+\+|(?i:notepad)\+\+)(?:[A-Za-z]{2,}|[a-z])\+{2,4}(?=[\s,.)]|\Z)")
# Of extensions that pick one at random before the prompt is read; {a|b} is an error in comfy.
WILDCARDS = ("__name__", "{a|b}")
_look("__", WILDCARDS[0], (), r"(?<!\w)__\w[\w/*.-]{0,60}?__(?!\w)")
_look("{", WILDCARDS[1], (_COMFY,), r"\{[^{}|]{1,200}\|[^{}]{1,200}\}")


# What A1111 does not read in a negative prompt.
_NOT_IN_NEGATIVE = ("<", "AND")


@functools.cache
def _unread_by(syntax: Syntax, negative: bool) -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    """What this syntax does not read: a mark that every such text has, an example, what it looks like."""
    return tuple(
        (mark, example, pattern)
        for mark, looks in _LOOKS.items()
        for example, read_by, pattern in looks
        if syntax not in read_by or (negative and mark in _NOT_IN_NEGATIVE)
    )


def unread(text: str, syntax: Syntax = Syntax.NONE, *, negative: bool = False) -> str | None:
    """What a prompt holds that looks like prompt syntax and is not read as such, by an example; None if nothing does.

    Plain English is not taken for it: `(16:9)`, `(see below)`, `[sic]`, `C++`, "ROCK AND ROLL".
    """
    for mark, example, pattern in _unread_by(syntax, negative):
        if mark in text and pattern.search(text):
            return example
    return None
