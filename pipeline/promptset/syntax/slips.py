"""Slips of the pen: syntax that is read, and by all likelihood means something else than its writer thought.

`a (b:1.3` emphasises to the end of the prompt, `BREAK BREAK` adds a chunk of nothing, `(16:9)` is a weight of 9.
They are no errors in the program that they were written for, so they are read as there, and a warning says what they
mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.picture import Syntax

LARGE_WEIGHT = 4.0  # nothing is to be recognised beyond it

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_NETWORK = re.compile(r"<\w{1,100}:[^>]{1,1000}>")
_OPEN_NETWORK = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:", re.IGNORECASE)
_ROUND, _SQUARE = re.compile(r"[()]"), re.compile(r"[\[\]]")
_SMILEY = re.compile(r"[:;=8][-^o']?\)")
_NUMBER = re.compile(r":\s*([^():]*)\)")
# Most weights; of them nothing is to be said.
_USUAL = frozenset(f"{number / 100:{form}}" for number in range(1, 301) for form in ("g", ".1f", ".2f"))
_WEIGHT = re.compile(r"(\(\s*)?:\s*([+-]?[\d.]*)\s*\)")
_TWICE = re.compile(r":\s*[+-]?\d*\.?\d+\s*:\s*[+-]?\d*\.?\d+\s*\)")
_WORDS = ("BREAK", "AND")
_NONE, _A1111, _COMFY, _COMPEL = Syntax.NONE, Syntax.A1111, Syntax.COMFY, Syntax.COMPEL  # a million rows are asked
_DIGITS = frozenset("0123456789. \n")
_OF_ALL = re.compile(r":\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*\Z")
_NO_BRACKETS = re.compile(r":(?<=[^\W\d]:)\s*\d?\.\d+\s*,")
_PERCENT = re.compile(r":\s*\d+(?:\.\d+)?\s*%\s*\]")
_NO_EMBEDDING = re.compile(r"embedding:(?<=[^\s(]embedding:)[^\s,)]")
_BESIDE_NOTHING = {word: re.compile(rf"\A[\s,]*\b{word}\b|\b{word}\b[\s,]*(?=\b{word}\b|\Z)") for word in _WORDS}
_MEANS = {
    "BREAK": "BREAK with nothing beside it found: a chunk of nothing is part of the prompt",
    "AND": "AND with nothing beside it found: an empty prompt is rendered with the others",
}


def slips(text: str, syntax: Syntax, *, negative: bool = False) -> Iterator[str]:
    """What looks like a slip in a prompt, a sentence each that repeats nothing of it."""
    if syntax is _NONE:
        return
    if "\\" in text:
        text = _ESCAPED.sub("_", text)
    a1111 = syntax is _A1111
    if ":" in text:
        yield from _colons(text, syntax, negative=negative)
    if a1111:
        text = _NETWORK.sub("", text) if not negative and "<" in text else text
        yield from _of_a1111(text, negative=negative)
    if "(" in text or ")" in text:
        if text.count("(") != text.count(")") or text.find(")") < text.find("("):
            yield from _open(text, a1111=a1111)
        if syntax is not _COMPEL:
            yield from _round(text)


def _of_a1111(text: str, *, negative: bool) -> Iterator[str]:
    if "#" in text:
        yield "# found: it and all that follows it in its line is a comment, which is left out"
    if not negative and "<" in text and _OPEN_NETWORK.search(text):
        yield (
            "<lora:... that no > closes found, or with a blank in it: it is painted as letters; <lora:NAME:0.8> wanted"
        )
    for word in _WORDS if not negative else _WORDS[:1]:
        if word in text and _BESIDE_NOTHING[word].search(text):
            yield _MEANS[word]
    if "[" in text and _unclosed(text, _SQUARE):
        yield "[ that is not closed found: all that follows it is weakened"


def _colons(text: str, syntax: Syntax, *, negative: bool) -> Iterator[str]:
    if syntax is not _COMPEL and _NO_BRACKETS.search(text):
        yield "a weight that no bracket closes found, as in word:1.3, and painted as letters; (word:1.3) wanted"
    if syntax is _COMFY and _NO_EMBEDDING.search(text):
        yield "embedding: behind another sign than a blank found: it is painted as letters; a blank before it wanted"
    if syntax is not _A1111:
        return
    if "%" in text and _PERCENT.search(text):
        yield "a share in percent found, as in [a:b:50%]: the brackets are no schedule; [a:b:0.5] wanted"
    whole = text[-1] in _DIGITS and all(text.count(pair[0]) == text.count(pair[1]) for pair in ("()", "[]", "<>"))
    if whole and not negative and "AND" not in text and (found := _OF_ALL.search(text)):
        yield (
            f"a number behind a colon at the end found: the whole prompt weighs {found[1][:20]}; of a ratio or a time, "
            "16:(9:1) is painted"
        )


def _open(text: str, *, a1111: bool) -> Iterator[str]:
    if _unclosed(text, _ROUND):
        effect = (
            "all that follows it is emphasised" if a1111 else "it is read as a letter, and what it would weigh as such"
        )
        yield f"( that is not closed found: {effect}"
    elif _unopened(_SMILEY.sub("_", text)):
        yield ") that closes nothing found: it is painted as a letter, as is a weight before it"


def _round(text: str) -> Iterator[str]:
    numbers = _NUMBER.findall(text) if ":" in text else []
    if text.count(":") != len(numbers) or not _USUAL.issuperset(numbers) or "(:" in text:
        yield from _weights(text)


def _weights(text: str) -> Iterator[str]:
    if _TWICE.search(text):
        yield "two numbers in one bracket found: the first is read as letters; (word:1.3) wanted"
    for match in _WEIGHT.finditer(text):
        if match[1] is not None:
            yield "a weight of nothing found, as in (:1.3); (word:1.3) wanted"
        elif not match[2] and not _smiles(text, match):
            yield "an empty weight found, as in (word:); (word:1.3) wanted"
        elif _large(match[2]):
            yield (
                f"a weight of {match[2][:20]} found, more than {LARGE_WEIGHT:g}: the picture falls apart; of a ratio "
                r"or a time, the brackets are to be escaped: \(16:9\)"
            )
        else:
            continue
        return


def _smiles(text: str, match: re.Match[str]) -> bool:
    """Whether `:)` is a smiley: behind no word, or without a bracket that it closes."""
    behind_word = match.start() > 0 and text[match.start() - 1].isalnum()
    return _SMILEY.fullmatch(match[0]) is not None and not (behind_word and text.count("(") == text.count(")"))


def _large(number: str) -> bool:
    try:
        return abs(float(number)) > LARGE_WEIGHT
    except ValueError:
        return False


def _unclosed(text: str, brackets: re.Pattern[str]) -> bool:
    depth = 0
    for match in brackets.finditer(text):
        depth = depth + 1 if match[0] in "([" else max(0, depth - 1)
    return depth > 0


def _unopened(text: str) -> bool:
    depth = 0
    for match in _ROUND.finditer(text):
        depth += 1 if match[0] == "(" else -1
        if depth < 0:
            return True
    return False
