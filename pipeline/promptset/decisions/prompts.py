"""What the prompts of a row say in their syntax: whether it can be read, and which LoRAs and embeddings they name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from pipeline.deployment.allow_lists import Names
from pipeline.deployment.announcement import Deployment
from pipeline.loras import blocks
from pipeline.picture import WHOLE_SCHEDULE, Lora, Picture, Syntax
from pipeline.promptset.fields.shorthand import lora_blocks
from pipeline.promptset.syntax import reading
from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import BadSyntax, Blend, Composed, Inversion, LoraTag
from pipeline.promptset.syntax.slips import slips
from pipeline.promptset.syntax.unread import ELSEWHERE, WILDCARDS, unread

P = ParamSpec("P")
T = TypeVar("T")

# Of the smallest and largest scale that a row may give a LoRA.
MAX_LORA_SCALE = 4.0
PROMPTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
_NEGATIVE = frozenset(PROMPTS[2:])
_NONE = Syntax.NONE
_LORA = re.compile(r"<(?:lora|lyco):([^<>]*)>")
_OF_SD1 = (
    "block weights of SD 1.x found, in a list of 17 or a preset: of SDXL's blocks, IN00, IN03, IN06 and OUT00 to OUT02 "
    "get 0, as in sd-webui-lora-block-weight; 12 or 20 numbers say them"
)


def loras_named(values: Mapping[str, Any], syntax: Syntax, deployment: Deployment) -> tuple[Lora, ...]:
    """The LoRAs that the prompts of a row name, by the ids of the deployment's allow-list.

    One that both encoders' prompts name counts as in the first one's. Raises ValueError with (field, message).
    """
    loras: dict[str, Lora] = {}
    for name in ("prompt", "prompt_2"):
        if (text := values.get(name)) and (tags := _checked(name, reading.lora_tags, text, syntax)):
            loras = _checked(name, _tagged, tags, deployment) | loras
    return tuple(loras.values())


def read_prompts(values: Mapping[str, Any], syntax: Syntax, deployment: Deployment, model: str) -> tuple[str, ...]:
    """Check the prompts of a row: the embeddings that they name, by the ids of the deployment's allow-list.

    Args:
        values: its fields: the prompts, `steps` and `guidance_interval`.

    Raises ValueError with (field, message) for what cannot be read or is not on the allow-list.
    """
    if syntax not in deployment.syntaxes:
        found = f"{syntax.value} found, which the deployment's version {deployment.version} does not read"
        raise ValueError("syntax", f"{found}; upgrade it, or leave the syntax out")
    inversions = _inversions(deployment.embedding_names)
    embeddings: dict[str, str] = {}
    composed: dict[str, int] = {}
    for name in PROMPTS:
        if (text := values[name]) is None:
            continue
        negative = name in _NEGATIVE
        if reading.needs_no_look(text, syntax, negative=negative) and not inversions.any_in(text):
            continue
        read = _checked(name, reading.read, text, syntax, values["steps"], negative=negative, inversions=inversions)
        composed[name] = len(read)
        if not negative and values["guidance_interval"] != WHOLE_SCHEDULE and is_composed(read):
            raise ValueError(
                "guidance_interval",
                f"found beside prompts joined by AND or weighted as a whole, as {name} is; they are guided away from "
                "the negative prompt at every step",
            )
        embeddings |= {one: name for one in _named(read) if one not in embeddings}
    first, second = composed.get("prompt", 1), composed.get("prompt_2", 1)
    if values["prompt_2"] is not None and first != second:
        raise ValueError("prompt_2", f"{second} prompts between AND found; as many as in prompt wanted, {first}")
    for one, name in embeddings.items():
        if (refusal := deployment.embeddings[one].refusal) is not None:
            raise ValueError(name, f"embedding {one[:80]!r} {refusal}; a prompt without it wanted")
        if not (allowed := deployment.embeddings[one]).fits(model):
            made_for = ", ".join(allowed.models)
            raise ValueError(name, f"embedding {one[:80]!r} is for {made_for}; the row's model is {model!r}")
    return tuple(embeddings)


def is_composed(read: Sequence[Composed]) -> bool:
    """Whether a prompt is put together with the negative one, whatever the guidance."""
    return len(read) > 1 or any(one.weight != 1 for one in read)


def _checked(name: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return call(*args, **kwargs)
    except BadSyntax as error:
        raise ValueError(name, str(error)) from None


def unread_syntax(picture: Picture) -> Iterator[tuple[str, str]]:
    """Prompts that look like a syntax that is not read: field and warning. Whoever says `none` is not warned."""
    values = picture.__dict__  # a million rows are asked
    syntax = values["syntax"]
    if syntax is _NONE:
        return
    for name in PROMPTS:
        text = values[name]
        if text and (found := unread(text, syntax or _NONE, negative=name in _NEGATIVE)):
            yield name, found


def slips_of(picture: Picture) -> Iterator[tuple[str, str]]:
    """What is read and is probably a slip: field and warning."""
    values = picture.__dict__  # a million rows are asked
    syntax = values["syntax"]
    if syntax is None or syntax is _NONE:
        return
    for name in PROMPTS:
        if text := values[name]:
            for warning in slips(text, syntax, negative=name in _NEGATIVE):
                yield name, warning
            if "<l" in text and any(map(_of_sd1, _LORA.findall(text))):
                yield name, _OF_SD1


def _of_sd1(arguments: str) -> bool:
    return any(blocks.are_of_sd1(one.strip().removeprefix("lbw=")) for one in arguments.split(":")[1:])


def unread_warning(example: str, syntax: Syntax | None) -> str:
    """What to do about it."""
    if example in WILDCARDS:
        return f"looks like a wildcard, as in {example}, which is read as literal text; a row for each choice wanted"
    if example in ELSEWHERE:
        return f"looks like {example}, {ELSEWHERE[example]}. It is read as literal text"
    if example == "(word:1,3)":
        return f"looks like a weight with a comma, as in {example}, which no syntax reads; (word:1.3) wanted"
    if syntax is None:
        other = "compel" if "+" in example or "()" in example else "comfy" if example == "(word:1e3)" else "a1111"
        return (
            f"looks like prompt syntax, as in {example}, and is read as literal text; syntax: {other} reads it, "
            "syntax: none says that it is meant literally"
        )
    return f"looks like prompt syntax, as in {example}, which syntax {syntax.value} reads as literal text"


@functools.lru_cache(maxsize=8)
def _inversions(names: Names) -> Inversions:
    return Inversions(names)


def _named(read: Iterable[Composed]) -> Iterator[str]:
    for composed in read:
        for condition in composed.schedule:
            for part in condition.parts:
                for one in part.parts if isinstance(part, Blend) else (part,):
                    yield from (span.name for span in one.spans if isinstance(span, Inversion))


def _tagged(tags: Iterable[LoraTag], deployment: Deployment) -> dict[str, Lora]:
    """By id; a LoRA that is there twice has the sum of its scales, as in A1111."""
    found: dict[str, LoraTag] = {}
    for tag in tags:
        name = deployment.lora_names.find(tag.name)
        if name is None:
            raise BadSyntax(
                f"<lora:{tag.name[:80]}> is not on the allow-list; {deployment.lora_names.nearest(tag.name)}"
            )
        before = found.get(name, LoraTag(name, 0.0, 0.0, tag.blocks))
        if before.blocks != tag.blocks:
            raise BadSyntax(f"<lora:{tag.name[:80]}> is there twice with different block weights; one of them wanted")
        found[name] = LoraTag(name, tag.scale + before.scale, tag.text_scale + before.text_scale, tag.blocks)
    return {name: _lora(tag) for name, tag in found.items()}


def _lora(tag: LoraTag) -> Lora:
    for scale in (tag.scale, tag.text_scale):
        if abs(scale) > MAX_LORA_SCALE:
            wanted = f"{-MAX_LORA_SCALE:g} to {MAX_LORA_SCALE:g} wanted"
            raise BadSyntax(f"<lora:{tag.name[:80]}> with a scale of {scale:g} found; {wanted}")
    text_scale = None if tag.text_scale == tag.scale else tag.text_scale
    return Lora(name=tag.name, scale=tag.scale, text_scale=text_scale, blocks=_blocks(tag))


def _blocks(tag: LoraTag) -> dict[str, float]:
    if not tag.blocks:
        return {}
    try:
        return Lora.model_validate({"name": tag.name, "blocks": lora_blocks(tag.blocks)}).blocks
    except ValueError:
        random = {"R", "U"} & {one.strip().upper() for one in tag.blocks.split(",")}
        raise BadSyntax(
            f"<lora:{tag.name[:80]}> with block weights that cannot be read found"
            f"{' (R and U are drawn at random there)' if random else ''}; lbw= wanted with {blocks.WANTED}, "
            f"numbers from {-MAX_LORA_SCALE:g} to {MAX_LORA_SCALE:g}"
        ) from None
