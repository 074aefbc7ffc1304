"""A prompt as it was read, whatever its syntax: prompts with weights, each with a schedule over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# What A1111, ComfyUI and compel leave open. Beyond, pictures are noise, or an image takes the time of hundreds.
MAX_WEIGHT = 100.0  # of a text, either sign
MAX_DEPTH = 100  # brackets in brackets
MAX_CHANGING = 100  # brackets of one prompt that change with the step
MAX_CONDITIONS = 256  # different texts that one prompt has in the course of its steps
MAX_COMPOSED = 16  # prompts between AND: each is an evaluation of its own in every step


class BadSyntax(ValueError):
    """What is wrong with a prompt, without repeating any of it: prompts are client material."""


@dataclass(frozen=True, slots=True)
class Span:
    """A text and its weight; 1 is as it stands."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Inversion:
    """A textual inversion in the place of words: its id on the deployment's allow-list, and its weight."""

    name: str
    weight: float = 1.0


Spans = tuple[Span | Inversion, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What is encoded together: a whole text, or what stands between two BREAKs; its weight among compel's others."""

    spans: Spans
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Blend:
    """The sum of parts' embeddings by their weights, divided by the weights' sum or not: compel's `.blend()`."""

    parts: tuple[Part, ...]
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class Condition:
    """What holds up to and with a step.

    Attributes:
        until: the last step, as the prompt counts them, from 1.
        parts: encoded one by one, their embeddings one behind the other.
    """

    until: int
    parts: tuple[Part | Blend, ...]


@dataclass(frozen=True, slots=True)
class Composed:
    """One of the prompts between AND: its weight in the sum, and what holds in which steps, in their order."""

    schedule: tuple[Condition, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LoraTag:
    """A LoRA in a prompt, `<lora:...>` say, as it was written.

    Attributes:
        name: its name.
        scale: of the UNet.
        text_scale: of the text encoders.
        blocks: its block weights, as sd-webui-lora-block-weight writes them; '' for none.
    """

    name: str
    scale: float
    text_scale: float
    blocks: str = ""


def merged(spans: Iterable[Span | Inversion]) -> Spans:
    """Spans of one weight that follow each other are one; empty ones are gone."""
    out: list[Span | Inversion] = []
    for one in spans:
        last = out[-1] if out else None
        if isinstance(one, Span) and isinstance(last, Span) and last.weight == one.weight:
            out[-1] = Span(last.text + one.text, one.weight)
        elif isinstance(one, Inversion) or one.text:
            out.append(one)
    return tuple(out)


def checked_weight(weight: float, what: str = "a weight") -> float:
    """The weight, or BadSyntax if it is not finite, or larger than MAX_WEIGHT."""
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise BadSyntax(f"{what} of {weight:.4g} found; -{MAX_WEIGHT:g} to {MAX_WEIGHT:g} wanted")
    return weight
