"""Prompts as A1111's web UI and its kin (Forge, SD.Next) read them: extra networks, AND, changes, BREAK, attention.

In this order, as modules/processing_scripts/comments.py, modules/processing.py and modules/prompt_parser.py (1.10) have
it: what follows a # in its line is left out, `<lora:...>` is taken out of a positive prompt, the rest is cut at AND,
each of these has a schedule over the steps, and each text of it is read for BREAK and attention. In a negative prompt
A1111 reads neither extra networks nor AND.
"""

from __future__ import annotations

import re

from pipeline.loras import blocks
from pipeline.promptset.syntax import changes, emphasis
from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import (
    MAX_COMPOSED,
    MAX_DEPTH,
    MAX_WEIGHT,
    BadSyntax,
    Composed,
    Condition,
    LoraTag,
    Part,
    Span,
    Spans,
    checked_weight,
)

_NETWORK = re.compile(r"<(\w{1,100}):([^>]{1,1000})>")  # bounded, so that many unclosed ones are soon over
_COMMENT_LINES = re.compile(r"(?:\A|\n)#[^\n]*(?:\n|\Z)")
_COMMENT = re.compile(r"#[^\n]*(?:\n|\Z)")
_LORA_KINDS = ("lora", "lyco")
# Of sd-webui-lora-block-weight, and of A1111.
_NOT_OF_LORAS = {
    **dict.fromkeys(("start", "stop", "step"), ", for some of the steps: a LoRA is fused for all of them"),
    **dict.fromkeys(("lbwe", "x"), ", by presets of an installation"),
    "dyn": ", for another rank than the file's",
}
_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*")
_NO_NUMBER = frozenset("abcdefghijklmnopqrstuvwxyz)],")  # what most prompts end with
_WEIGHT = re.compile(r":\s*([+-]?[.\d]+)\s*\)")
_CHANGE = re.compile(r":\s*[-+\d.][-+\d.eE]*\s*\]")


def read(text: str, steps: int, *, negative: bool = False, inversions: Inversions, later_pass: bool = False
         ) -> tuple[Composed, ...]:  # fmt: skip
    """The prompt for so many steps, without its LoRAs; at least one prompt of at least one condition.

    `later_pass`: for the second pass of a large picture. Raises BadSyntax.
    """
    text = _without_comments(text)
    if not negative:
        text = _NETWORK.sub("", text)
    composed = []
    for one, weight in [(text, 1.0)] if negative else _composed(text):
        schedule = tuple(
            Condition(until, tuple(Part(_with_inversions(part, inversions)) for part in emphasis.parts_of(now)))
            for until, now in changes.texts_by_step(one, steps, later_pass=later_pass)
        )
        composed.append(Composed(schedule, weight))
    return tuple(composed)


def lora_tags(text: str) -> tuple[LoraTag, ...]:
    """The LoRAs that a positive prompt names: `<lora:name>`, `<lora:name:te>`, `<lora:name:te:unet>`, `te=`, `unet=`.

    Each may have block weights, as sd-webui-lora-block-weight reads them: `lbw=1,0,...`, or such a list or preset at
    its end.
    Raises BadSyntax, also for extra networks that are none.
    """
    if "<" not in text:
        return ()
    return tuple(_lora(match[1], match[2]) for match in _NETWORK.finditer(_without_comments(text)))


def changes_in(text: str) -> bool:
    """Whether a prompt changes with the step."""
    return changes.changes(text)


def needs_no_look(text: str, *, negative: bool) -> bool:
    """Whether a prompt is certainly fine and names nothing: most are, and a million of them are checked.

    What it cannot be sure of it leaves to `read`.
    """
    if "|" in text or "#" in text or (not negative and ("<" in text or "AND" in text)):
        return False
    deep = text.count("(") + text.count("[")
    if ":" in text:
        if (text[-1] not in _NO_NUMBER and _NUMBER.fullmatch(text, text.rfind(":") + 1)) or (
            "[" in text and _CHANGE.search(text)
        ):
            return False
        product = 1.1**deep
        for number in _WEIGHT.findall(text):
            try:
                product *= max(1.0, abs(float(number)))
            except ValueError:
                return False
        return product <= MAX_WEIGHT
    return deep <= 48 < MAX_DEPTH  # 1.1 to the power of 48 is 97


def _without_comments(text: str) -> str:
    """First whole lines, then ends of lines, each with the end of its line turned into one."""
    return _COMMENT.sub("\n", _COMMENT_LINES.sub("\n", text)) if "#" in text else text


def _composed(text: str) -> list[tuple[str, float]]:
    """The prompts between AND, each with its weight behind a colon at its end; a single prompt may have one, too."""
    pieces = _AND.split(text) if "AND" in text else [text]
    if len(pieces) > MAX_COMPOSED:
        raise BadSyntax(f"{len(pieces)} prompts between AND found; at most {MAX_COMPOSED} wanted")
    found = []
    for piece in pieces:
        before, colon, after = piece.rpartition(":")
        number = _NUMBER.fullmatch(after) if colon else None
        if number is None:
            found.append((piece.rstrip(), 1.0))
        else:
            found.append((before.rstrip(), checked_weight(float(number[1]), "a weight behind AND's prompt")))
    return found


def _lora(kind: str, arguments: str) -> LoraTag:
    if kind not in _LORA_KINDS:
        known = "hypernetworks are not rendered" if kind == "hypernet" else f"{kind[:20]!r} is no kind that is known"
        raise BadSyntax(f"an extra network <{kind[:20]}:...> found; {known}, <lora:NAME:SCALE> wanted")
    positional, named = [], {}
    for argument in arguments.split(":"):
        key, equals, value = argument.partition("=")
        if equals:
            named[key.strip()] = value
        else:
            positional.append(argument)
    if not positional or not positional[0].strip():
        raise BadSyntax(f"a <{kind}:...> without a name found; <lora:NAME:SCALE> wanted")
    weights = named.pop("lbw", None) or named.pop("w", "")
    if not weights and len(positional) > 1 and ("," in positional[-1] or blocks.of_preset(positional[-1]) is not None):
        weights = positional.pop()
    unknown = sorted({*named} - {"te", "unet"})
    if unknown or len(positional) > 3:
        what = f"{unknown[0][:20]}=..." if unknown else f"{len(positional) - 1} numbers"
        why = _NOT_OF_LORAS.get(unknown[0], "") if unknown else ""
        raise BadSyntax(f"a <{kind}:...> with {what} found{why}; <lora:NAME:TE:UNET> wanted, or te=, unet=, lbw=")
    numbers = [_scale(value) for value in positional[1:]]
    text_scale = _scale(named["te"]) if "te" in named else numbers[0] if numbers else 1.0
    scale = _scale(named["unet"]) if "unet" in named else numbers[1] if len(numbers) > 1 else text_scale
    return LoraTag(positional[0].strip(), scale, text_scale, weights.strip())


def _scale(text: str) -> float:
    try:
        return checked_weight(float(text), "a LoRA's scale")
    except BadSyntax:
        raise
    except ValueError:
        raise BadSyntax("a LoRA's scale that is no number found; one as in <lora:NAME:0.8> wanted") from None


def _with_inversions(part: Spans, inversions: Inversions) -> Spans:
    return tuple(piece for one in part for piece in (inversions.in_words(one) if isinstance(one, Span) else (one,)))
