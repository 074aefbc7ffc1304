"""Prompts are read as ComfyUI reads them; the table is written by hand from its parser's rules."""

from __future__ import annotations

import pytest

from pipeline.deployment.allow_lists import Names
from pipeline.promptset.syntax import comfy
from pipeline.promptset.syntax.inversions import NO_INVERSIONS, Inversions
from pipeline.promptset.syntax.parsed import BadSyntax, Inversion, Part, Span, Spans
from tests.pipeline.promptset.syntax.listed import Entry

LISTED = Inversions(Names({"easy": Entry(("EasyNegative",)), "dark": Entry()}))


def _read(text: str, inversions: Inversions = NO_INVERSIONS) -> Spans:
    (composed,) = comfy.read(text, 10, inversions=inversions)
    (condition,) = composed.schedule
    (part,) = condition.parts
    assert (composed.weight, condition.until) == (1.0, 10)
    assert isinstance(part, Part)
    return part.spans


WEIGHTS = {
    "a (b) c": [("a ", 1.0), ("b", 1.1), (" c", 1.0)],
    "((a))": [("a", 1.21)],
    "(a:1.3)": [("a", 1.3)],
    "((a:1.3))": [("a", 1.3)],  # a written weight stands for itself
    "(a (b:1.2) c:1.5)": [("a ", 1.5), ("b", 1.2), (" c", 1.5)],
    "(a (b):1.5)": [("a ", 1.5), ("b", 1.65)],
    "(a:b)": [("a:b", 1.1)],
    r"\(a\) (b\):2)": [("(a) ", 1.0), ("b)", 2.0)],
    "(open": [("(open", 1.0)],
    "a) (b) c": [("a) (b) c", 1.0)],  # the bracket that closes nothing counts against the next
    "[a] BREAK x AND <lora:y:1> [a:b:0.5]": [("[a] BREAK x AND <lora:y:1> [a:b:0.5]", 1.0)],
    "a /* not (this:9) */b // nor this\nc": [("a b \nc", 1.0)],
    "(a: 1e-1)": [("a", 0.1)],
    r"{a} \{b\}": [("a {b}", 1.0)],
    "": [],
}


@pytest.mark.parametrize("text", WEIGHTS)
def test_brackets_weigh_as_in_comfyui(text: str) -> None:
    part = _read(text)
    assert [one.text for one in part if isinstance(one, Span)] == [words for words, _ in WEIGHTS[text]]
    assert [one.weight for one in part] == pytest.approx([weight for _, weight in WEIGHTS[text]])


def test_an_embedding_stands_for_its_name() -> None:
    part = _read("bad, embedding:EasyNegative, (embedding:dark.pt:1.2) x,embedding:dark", LISTED)
    assert part == (
        Span("bad, "), Inversion("easy"), Span(", "), Inversion("dark", 1.2), Span(" x,embedding:dark"),
    )  # fmt: skip


def test_an_embedding_that_is_not_listed_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadSyntax, match=r"embedding 'EasyNegativ' is not on the allow-list; nearest easy"):
        _read("embedding:EasyNegativ", LISTED)


@pytest.mark.parametrize(
    "text",
    ["(a:nan)", "(a:inf)", "(a:1e9)", "(a:-101)", "(" * 60 + "a" + ")" * 60, "(" * 20_000, "{a|b}", "x {a|{b|c}}"],
)
def test_what_would_be_noise_or_chance_is_refused(text: str) -> None:
    with pytest.raises(BadSyntax, match="wanted"):
        _read(text)
    assert not comfy.needs_no_look(text)
