"""Literal text as an A1111 prompt that means just that, back again, and other syntaxes as A1111's.

Galleries and web UIs read the `parameters` of a file in A1111's syntax whatever made it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.promptset.syntax import a1111
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import BadSyntax, Blend, Composed, Inversion, Part, Span, Spans

_SPECIAL = re.compile(r"[()\[\]\\]")
_SQUARE = re.compile(r"\[[^\[\]]{1,1000}\]")
_KEYWORD = re.compile(r"\b(?:AND|BREAK)\b")
_NETWORK = re.compile(r"<(?=\w{1,100}:[^>]{1,1000}>)")
_WEIGHT_AT_END = re.compile(r":([ \t]*)([-+]?(?:\d+\.?|\d*\.\d+))(\s*)\Z")


def escape(text: str) -> str:
    """The text as an A1111 prompt that is read as this text: `(` is `\\(`, AND is `A\\ND`.

    A backslash before any other letter disappears in A1111, so it keeps words from being keywords. A number behind a
    colon at the end would be a weight of the whole: `16:9` becomes `16:(9:1)`.
    """
    return _without_words(_SPECIAL.sub(lambda found: "\\" + found[0], text))


def keep_weights_alone(text: str) -> str:
    """A prompt of a program that reads of A1111's syntax the weights of brackets alone, as sd-scripts does."""
    escaped = _SQUARE.sub(lambda found: found[0].replace(":", r"\:"), text.replace("|", r"\|"))
    return _without_words(escaped)


def _without_words(text: str) -> str:
    """So that AND, BREAK, networks and a number at the end are letters."""
    escaped = _KEYWORD.sub(lambda found: f"{found[0][0]}\\{found[0][1:]}", text)
    escaped = _NETWORK.sub(r"<\\", escaped)
    return _WEIGHT_AT_END.sub(r":\1(\2:1)\3", escaped)


def unescape(prompt: str) -> str | None:
    """The text of an A1111 prompt that is nothing but a text, brackets escaped or not there; else None."""
    try:
        composed = a1111.read(prompt, 1, inversions=NO_INVERSIONS)
        if a1111.lora_tags(prompt) or a1111.changes_in(prompt):
            return None
    except BadSyntax:
        return None
    if len(composed) != 1 or composed[0].weight != 1.0:
        return None
    part, *others = composed[0].schedule[0].parts
    if others or isinstance(part, Blend):
        return None
    if any(isinstance(one, Inversion) or one.weight != 1.0 for one in part.spans):
        return None
    return "".join(one.text for one in part.spans if isinstance(one, Span))


def as_a1111(composed: Sequence[Composed]) -> str | None:
    """A prompt of another syntax in A1111's; None if it has no form there, as compel's blends.

    Weights stay as they are, embeddings go by their id, parts have BREAK between them.
    """
    texts = []
    for one in composed:
        parts = [part for part in one.schedule[0].parts if isinstance(part, Part) and part.weight == 1.0]
        if len(one.schedule) != 1 or len(parts) != len(one.schedule[0].parts):
            return None
        text = " BREAK ".join(_of_spans(part.spans) for part in parts)
        texts.append(f"{text} :{_number(one.weight)}" if one.weight != 1.0 else text)
    return " AND ".join(texts)


def _of_spans(spans: Spans) -> str:
    return "".join(
        text if one.weight == 1.0 else f"({text}:{_number(one.weight)})"
        for one in spans
        for text in [one.name if isinstance(one, Inversion) else escape(one.text)]
    )


def _number(value: float) -> str:
    """Without an exponent, which A1111 does not read."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
