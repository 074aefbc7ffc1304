"""A prompt in any of the syntaxes."""

from __future__ import annotations

from pipeline.picture import Syntax
from pipeline.promptset.syntax import a1111, comfy, compel
from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import Composed, Condition, LoraTag, Part, Span


def read(
    text: str,
    syntax: Syntax,
    steps: int,
    *,
    negative: bool = False,
    inversions: Inversions,
    later_pass: bool = False,
) -> tuple[Composed, ...]:
    """A prompt for so many steps; see `parsed.py`.

    Args:
        text: as it was written.
        negative: whether it is a negative prompt, which A1111 reads otherwise.
        inversions: the embeddings that it may name.
        later_pass: whether it is for the second pass of a large picture, of so many steps.

    Raises BadSyntax.
    """
    match syntax:
        case Syntax.A1111:
            return a1111.read(text, steps, negative=negative, inversions=inversions, later_pass=later_pass)
        case Syntax.COMFY:
            return comfy.read(text, steps, inversions=inversions)
        case Syntax.COMPEL:
            return compel.read(text, steps, inversions=inversions)
        case Syntax.NONE:
            return (Composed((Condition(steps, (Part((Span(text),)),)),)),)


def lora_tags(text: str, syntax: Syntax, *, negative: bool = False) -> tuple[LoraTag, ...]:
    """The LoRAs that a prompt names, in their order. Raises BadSyntax."""
    if syntax is Syntax.A1111 and not negative:
        return a1111.lora_tags(text)
    return compel.lora_tags(text) if syntax is Syntax.COMPEL else ()


def needs_no_look(text: str, syntax: Syntax, *, negative: bool = False) -> bool:
    """Whether `read` is certain to succeed, and finds neither LoRAs nor, by `embedding:`, embeddings."""
    match syntax:
        case Syntax.A1111:
            return a1111.needs_no_look(text, negative=negative)
        case Syntax.COMFY:
            return comfy.needs_no_look(text)
        case Syntax.COMPEL:
            return compel.needs_no_look(text)
        case Syntax.NONE:
            return True
