"""Prompts as compel reads them: `word++`, `(words)--`, `(words)1.3`, `"..."`, `.and()`, `.blend()`, `withLora()`.

As the grammar in compel/prompt_parser.py (2.3) does: a plus multiplies by 1.1, a minus by 0.9, a number by itself, and
brackets in brackets by both; what does not fit the grammar is words as they stand. A prompt is one text, or as a whole
`("...", "...").and(1, 0.5)` or `.blend(...)`. `.swap()` needs control of the cross-attention and is refused.
"""

from __future__ import annotations

import re

from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import (
    MAX_COMPOSED,
    MAX_DEPTH,
    MAX_WEIGHT,
    BadSyntax,
    Blend,
    Composed,
    Condition,
    LoraTag,
    Part,
    Span,
    Spans,
    checked_weight,
)

_PLUS, _MINUS = 1.1, 0.9

_COMMA = re.compile(r",(\S)")
_BLANK = re.compile(r"\s*")
_WORD = re.compile(r'(?:\\[()",.+\-=]|[-+](?![\s()",.+\-=]|\Z)|[^\s()",.+\-=])+')
_FREE = re.compile(r"\S+")
_QUOTED = re.compile(r'"((?:\\"|[^"\n])*)"')
_SIGNS = re.compile(r"\++|-+")
_WEIGHT = re.compile(r"\++|-+|\d+\.\d*|\.?\d+")
_ATTEND = re.compile(r"\s*\.attend\s*\(\s*(\++|-+|\d+\.\d*|\.?\d+)\s*\)")
_SWAP = re.compile(r"\s*\.swap\s*\(")
_LORA = re.compile(r"(?:useLora|withLora)\s*\(\s*([\w-]+)\s*(?:,\s*([+-]?(?:\d+\.\d*|\.?\d+))\s*)?\)", re.ASCII)
_CALL = re.compile(r'"|\.(?:swap|and|add|blend|attend)\s*\(|\.attend|Lora\b')
_FACTOR = re.compile(r"\)(\d+\.\d*|\.?\d+)")
_JOINED = re.compile(r"\s*\)\s*\.(and|add|blend)\s*\(([^()]{0,1000})\)")
_ESCAPED = re.compile(r'\\([()"])')
_ANGLED = re.compile(r"<([^<>\s]{1,200})>")

Fragments = list[tuple[str, float]]


def read(text: str, steps: int, *, inversions: Inversions) -> tuple[Composed, ...]:
    """The prompt: one of one condition, whose parts are those of `.and()`, or a blend. Raises BadSyntax."""
    reader = _Reader(_COMMA.sub(r", \1", text))
    parts = reader.joined(inversions)
    if parts is None:
        parts = (Part(_spans(_Reader(reader.text).prompt(), inversions)),)
    return (Composed((Condition(steps, parts),)),)


def lora_tags(text: str) -> tuple[LoraTag, ...]:
    """The LoRAs that a prompt names: `withLora(name, 0.5)`. Raises BadSyntax."""
    if "Lora" not in text:
        return ()
    found = [(match[1], checked_weight(float(match[2] or 1), "a LoRA's scale")) for match in _LORA.finditer(text)]
    return tuple(LoraTag(name, scale, scale) for name, scale in found)


def needs_no_look(text: str) -> bool:
    """Whether a prompt is certainly fine and names nothing; what it cannot be sure of it leaves to `read`."""
    if "(" not in text and '"' not in text and "++++" not in text:
        return True
    if _CALL.search(text) or text.count("(") > MAX_DEPTH:
        return False
    product = _PLUS ** text.count("+")
    for number in _FACTOR.findall(text):
        product *= max(1.0, float(number))
    return product <= MAX_WEIGHT


class _Reader:
    """Reads from left to right; a method that does not find what it is for leaves the place as it was."""

    def __init__(self, text: str, at: int = 0, end: int | None = None, depth: int = 0) -> None:
        self.text, self.at, self.end, self.depth = text, at, len(text) if end is None else end, depth

    def joined(self, inversions: Inversions) -> tuple[Part | Blend, ...] | None:
        """The parts of a whole prompt that is `(...).and()` or `(...).blend()`; None if it is none."""
        self._take(_BLANK)
        if not self._takes("("):
            return None
        found: list[Spans] = []
        while True:
            self._take(_BLANK)
            fragments = self._target()
            if fragments is None:
                fragments = self._quoted(as_prompt=True)
            if fragments is None:
                return None
            found.append(_spans(fragments, inversions))
            self._take(_BLANK)
            if not self._takes(","):
                break
        match = self._take(_JOINED)
        if match is None:
            return None
        if self.text[self.at : self.end].strip():
            raise BadSyntax(f"text behind .{match[1]}() found, which joins whole prompts; nothing wanted there")
        return _parts(match[1], match[2], found)

    def prompt(self) -> Fragments:
        """Everything that is left."""
        found: Fragments = []
        while self._take(_BLANK) and self.at < self.end:
            element = self._element(words=False)
            if element is None:
                word = self._take(_FREE)
                element = [(_text(word[0] if word else ""), 1.0)]
            found += element
        return found

    def _fragment(self) -> Fragments:
        """What may stand in brackets and quotation marks."""
        found: Fragments = []
        while True:
            self._take(_BLANK)
            element = self._element(words=True)
            if element is None and self.text[self.at : min(self.at + 1, self.end)] in (",", "."):
                element = [(self.text[self.at], 1.0)]
                self.at += 1
            if element is None:
                return found
            found += element

    def _element(self, *, words: bool) -> Fragments | None:
        """A LoRA, or a target with its operator; where `words` may stand, also a word without one."""
        if self._take(_LORA):
            return []
        start = self.at
        is_group = self.text[start : start + 1] in ("(", '"')
        target = self._target()
        if target is None:
            return None
        if self._take(_SWAP):
            raise BadSyntax(".swap() found, which needs control of the cross-attention; the words themselves wanted")
        operator = self._take(_ATTEND)
        sign = operator[1] if operator else None
        if sign is None and (operator := self._take(_WEIGHT if is_group else _SIGNS)):
            sign = operator[0]
        if sign is None and not is_group and not words:
            self.at = start
            return None
        return target if sign is None else [(text, weight * _factor(sign)) for text, weight in target]

    def _target(self) -> Fragments | None:
        """What an operator may stand behind."""
        character = self.text[self.at : min(self.at + 1, self.end)]
        if character == '"':
            return self._quoted()
        if character == "(":
            return self._bracketed()
        word = self._take(_WORD)
        return [(_text(word[0]), 1.0)] if word else None

    def _bracketed(self) -> Fragments | None:
        start = self.at
        self.at, self.depth = self.at + 1, self.depth + 1
        if self.depth > MAX_DEPTH:
            raise BadSyntax(f"brackets in brackets, more than {MAX_DEPTH} deep or not closed; fewer wanted")
        found = self._fragment()
        self.depth -= 1
        if self._takes(")"):
            return found
        self.at = start
        return None

    def _quoted(self, *, as_prompt: bool = False) -> Fragments | None:
        start = self.at
        match = self._take(_QUOTED)
        if match is None:
            return None
        inside = _Reader(self.text, match.start(1), match.end(1), self.depth)
        if not match[1].strip():
            return [("", 1.0)]
        found = inside.prompt() if as_prompt else inside._fragment()
        if inside.at < inside.end:
            self.at = start
            return None
        return found

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at, self.end)
        if match is not None:
            self.at = match.end()
        return match

    def _takes(self, character: str) -> bool:
        if self.at < self.end and self.text[self.at] == character:
            self.at += 1
            return True
        return False


def _parts(operator: str, options: str, found: list[Spans]) -> tuple[Part | Blend, ...]:
    if len(found) > MAX_COMPOSED:
        raise BadSyntax(f"{len(found)} prompts in .{operator}() found; at most {MAX_COMPOSED} wanted")
    given = [option.strip() for option in options.split(",") if option.strip()]
    normalize = not (operator == "blend" and given and given[-1] == "no_normalize")
    try:
        weights = [checked_weight(float(one)) for one in (given if normalize else given[:-1])]
    except BadSyntax:
        raise
    except ValueError:
        raise BadSyntax(f".{operator}() with an option that is no number found; weights wanted") from None
    if weights and len(weights) != len(found):
        raise BadSyntax(f"{len(weights)} weights for {len(found)} prompts in .{operator}() found; as many wanted")
    parts = tuple(Part(spans, weight) for spans, weight in zip(found, weights or [1.0] * len(found), strict=True))
    if operator != "blend":
        return parts
    if normalize and sum(part.weight for part in parts) == 0:
        raise BadSyntax(".blend() with weights that add up to 0 found; other weights or no_normalize wanted")
    return (Blend(parts, normalize),)


def _spans(fragments: Fragments, inversions: Inversions) -> Spans:
    """Fragments of one weight that follow each other are one text, with a blank between them."""
    fused: Fragments = []
    for text, weight in fragments:
        if fused and fused[-1][1] == weight:
            fused[-1] = (f"{fused[-1][0]} {text}", weight)
        else:
            fused.append((text, weight))
    return tuple(
        piece
        for text, weight in fused
        for piece in inversions.in_words(Span(_without_angles(text, inversions), checked_weight(weight)))
    )


def _without_angles(text: str, inversions: Inversions) -> str:
    """`<name>` is how diffusers calls an embedding."""
    return _ANGLED.sub(lambda found: found[1] if inversions.names.find(found[1]) else found[0], text)


def _text(word: str) -> str:
    return _ESCAPED.sub(r"\1", word)


def _factor(sign: str) -> float:
    if sign[0] in "+-":
        return float((_PLUS if sign[0] == "+" else _MINUS) ** len(sign))
    return float(sign)
