"""Prompts as ComfyUI reads them: `(a)`, `(a:1.3)`, `\\(`, `embedding:name`, and comments.

As comfy/sd1_clip.py has it: brackets multiply by 1.1, but a weight that is written stands for itself, whatever is
around it; unlike A1111's, square brackets, BREAK, AND and `<lora:...>` are letters. Its page takes `/* */` and `//`
comments out before a prompt is queued, and chooses one of `{a|b}` at random, which is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import (
    MAX_DEPTH,
    MAX_WEIGHT,
    BadSyntax,
    Composed,
    Condition,
    Inversion,
    Part,
    Span,
    checked_weight,
    merged,
)

_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//.*")
_CHOICE_TOKEN = re.compile(r"\\[\s\S]|[{|}]")
_ESCAPED_CHOICE = re.compile(r"\\([{}|])")
_BRACKET = re.compile(r"[()]")
_WEIGHT = re.compile(r":\s*([^:()]*)\)")
_EMBEDDING = re.compile(r"(?:(?<=[ \n])|\A)embedding:(\S+)")
# Letters that no prompt holds, as ComfyUI puts them in the place of escaped brackets.
_HIDDEN = {r"\)": "\0\1", r"\(": "\0\2"}


def read(text: str, steps: int, *, inversions: Inversions) -> tuple[Composed, ...]:
    """The prompt: one, of one condition and one part. Raises BadSyntax."""
    text = _without_choices(_COMMENT.sub("", text))
    for escape, hidden in _HIDDEN.items():
        text = text.replace(escape, hidden)
    _check_depth(text)
    weighted = [Span(_shown(one.text), one.weight) for one in _weighted(text, 1.0)]
    spans = merged(piece for span in weighted for piece in _with_inversions(span, inversions))
    return (Composed((Condition(steps, (Part(spans),)),)),)


def needs_no_look(text: str) -> bool:
    """Whether a prompt is certainly fine and names nothing; what it cannot be sure of it leaves to `read`."""
    if "{" in text or text.count("(") > 40:  # 1.1 to the power of 40 is 45
        return False
    if "(" in text and ":" in text:
        for number in _WEIGHT.findall(text):
            try:
                weight = float(number)
            except ValueError:
                continue
            if not abs(weight) * 1.1 ** text.count("(") <= MAX_WEIGHT:  # not a number, either
                return False
    return True


def _without_choices(text: str) -> str:
    """Without the braces of `{a}`, which is no choice. Raises BadSyntax for one."""
    if "{" not in text and "\\" not in text:
        return text
    depth, pieces, done = 0, [], 0
    for match in _CHOICE_TOKEN.finditer(text):
        sign = match[0]
        if sign == "{":
            depth += 1
        elif sign == "|" and depth:
            raise BadSyntax(
                "a choice {a|b} found, of which ComfyUI's page takes one at random; one wanted, or a row for each"
            )
        elif sign == "}" and depth:
            depth -= 1
        else:
            continue
        pieces.append(text[done : match.start()])
        done = match.end()
    return _ESCAPED_CHOICE.sub(r"\1", "".join([*pieces, text[done:]]))


def _check_depth(text: str) -> None:
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[0] == "(" else -1
        if depth > MAX_DEPTH:
            raise BadSyntax(f"brackets in brackets, more than {MAX_DEPTH} deep or not closed; fewer wanted")


def _weighted(text: str, weight: float) -> Iterable[Span]:
    for piece in _pieces(text):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            yield Span(piece, checked_weight(weight))
            continue
        inside, written = piece[1:-1], weight * 1.1
        colon = inside.rfind(":")
        if colon > 0:
            with suppress(ValueError):  # letters then
                written, inside = float(inside[colon + 1 :]), inside[:colon]
        yield from _weighted(inside, checked_weight(written))


def _pieces(text: str) -> Iterable[str]:
    """What stands outside of brackets, and each outermost pair with its content.

    A bracket that closes nothing counts against the next one that opens, as in ComfyUI.
    """
    depth, start = 0, 0
    for match in _BRACKET.finditer(text):
        if match[0] == "(":
            if depth == 0:
                if start < match.start():
                    yield text[start : match.start()]
                start = match.start()
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                yield text[start : match.end()]
                start = match.end()
    if start < len(text):
        yield text[start:]


def _shown(text: str) -> str:
    for escape, hidden in _HIDDEN.items():
        text = text.replace(hidden, escape[1])
    return text


def _with_inversions(span: Span, inversions: Inversions) -> Iterable[Span | Inversion]:
    """`embedding:name` at the beginning or behind a blank; a comma behind the name is none of it."""
    text, done = span.text, 0
    for match in _EMBEDDING.finditer(text):
        written = match[1]
        name = written if inversions.names.find(written) else written.strip(",")
        if match.start() > done:
            yield Span(text[done : match.start()], span.weight)
        yield Inversion(inversions.required(name), span.weight)
        done = match.start(1) + written.index(name) + len(name) if name else match.end()
    if done < len(text):
        yield Span(text[done:], span.weight)
