"""Prompts are read as compel reads them; the table is written by hand from its grammar."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from pipeline.deployment.allow_lists import Names
from pipeline.promptset.syntax import compel
from pipeline.promptset.syntax.inversions import NO_INVERSIONS, Inversions
from pipeline.promptset.syntax.parsed import BadSyntax, Blend, Inversion, LoraTag, Part, Span
from tests.pipeline.promptset.syntax.listed import Entry


def _parts(text: str, inversions: Inversions = NO_INVERSIONS) -> tuple[Part | Blend, ...]:
    (composed,) = compel.read(text, 10, inversions=inversions)
    (condition,) = composed.schedule
    return condition.parts


WEIGHTS = {
    "a cat, b": [("a cat, b", 1.0)],
    "a++ cat--, b": [("a", 1.21), ("cat", 0.81), (", b", 1.0)],
    "a (big cat)1.3 b": [("a", 1.0), ("big cat", 1.3), ("b", 1.0)],
    "((a)+ b)++": [("a", 1.331), ("b", 1.21)],
    '"a b"+ c': [("a b", 1.1), ("c", 1.0)],
    "cat.attend(1.2) x": [("cat", 1.2), ("x", 1.0)],
    "a (cat": [("a (cat", 1.0)],
    "(a - b)++": [("(a - b)++", 1.0)],  # a lone minus does not fit the grammar
    "well-known a+b": [("well-known a+b", 1.0)],
    r"a\(b\)++": [("a(b)", 1.21)],
    "a, b,c": [("a, b, c", 1.0)],
    "withLora(film, 0.5) a": [("a", 1.0)],
}


@pytest.mark.parametrize("text", WEIGHTS)
def test_weights_are_those_of_compel(text: str) -> None:
    (part,) = _parts(text)
    assert isinstance(part, Part)
    assert [one.text for one in part.spans if isinstance(one, Span)] == [words for words, _ in WEIGHTS[text]]
    assert [one.weight for one in part.spans] == pytest.approx([weight for _, weight in WEIGHTS[text]])


def test_a_prompt_may_be_several_joined() -> None:
    a, b = (Span("a cat"),), (Span("a dog"),)
    assert _parts('("a cat", "a dog").and(1, 0.5)') == (Part(a), Part(b, 0.5))
    assert _parts('("a cat", "a dog").blend(0.7, 0.3)') == (Blend((Part(a, 0.7), Part(b, 0.3))),)
    assert _parts('("a cat", "a dog").blend(1, -1, no_normalize)') == (
        Blend((Part(a), Part(b, -1.0)), normalize=False),
    )


def test_loras_and_embeddings_have_compel_s_and_diffusers_names() -> None:
    assert compel.lora_tags("withLora(film,0.5) a useLora(ink)") == (LoraTag("film", 0.5, 0.5), LoraTag("ink", 1, 1))
    (part,) = _parts("a <cat-toy>++", Inversions(Names({"cat-toy": Entry()})))
    assert part == Part((Span("a"), Inversion("cat-toy", 1.1**2)))


@pytest.mark.parametrize(
    "text",
    ["cat.swap(dog)", '("a", "b").and(1)', '("a", "b").and() c', '("a", "b").blend(1, -1)', '("a").blend(x)', "(a)1000",
     "(" * 101 + "a" + ")" * 101, "a" + "+" * 60],
)  # fmt: skip
def test_what_has_no_picture_is_refused(text: str) -> None:
    with pytest.raises(BadSyntax, match="wanted"):
        _parts(text)
    assert not compel.needs_no_look(text)


@pytest.mark.parametrize(
    "text", ["(a " * 6_666, '"a ' * 6_666, "(a +) " * 3_333, "+" * 20_000, '\\"' * 10_000, "a-" * 10_000]
)
def test_twenty_thousand_characters_take_linear_time(text: str) -> None:
    began = time.process_time()
    with suppress(BadSyntax):
        _parts(text)
    assert time.process_time() - began < 2
