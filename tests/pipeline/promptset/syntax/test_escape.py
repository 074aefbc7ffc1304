"""Literal text means the same to whoever reads it in A1111's syntax, and comes back."""

from __future__ import annotations

import pytest

from pipeline.promptset.syntax import a1111, comfy
from pipeline.promptset.syntax.escape import as_a1111, escape, unescape
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import Part, Span

TEXTS = {
    "a fox": "a fox",
    "a (b) [c]": r"a \(b\) \[c\]",
    "back\\slash": r"back\\slash",
    "salt AND pepper": r"salt A\ND pepper",
    "coffee BREAK": r"coffee B\REAK",
    "<lora:film:1>": r"<\lora:film:1>",
    "16:9": "16:(9:1)",
    "smile :-1": "smile :(-1:1)",
    "[a:b:0.5] [x|y]": r"\[a:b:0.5\] \[x|y\]",
    "(a:1.3)": r"\(a:1.3\)",
    "SAND, <b>, a:b": "SAND, <b>, a:b",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_literal_text_is_escaped_and_comes_back(text: str) -> None:
    assert escape(text) == TEXTS[text]
    assert unescape(TEXTS[text]) == text


@pytest.mark.parametrize("text", TEXTS)
def test_an_escaped_text_is_read_as_that_text(text: str) -> None:
    (composed,) = a1111.read(escape(text), 20, inversions=NO_INVERSIONS)
    assert (composed.weight, [one.parts for one in composed.schedule]) == (1.0, [(Part((Span(text),)),)])
    assert a1111.lora_tags(escape(text)) == ()


@pytest.mark.parametrize(
    "prompt", ["(a)", "[a]", "(a:1.2)", "a AND b", "a BREAK b", "<lora:x:1>", "a :0.5", "[a:b:0.5]", "[a|b]", "(a:x.y)"]
)
def test_a_prompt_that_means_more_than_its_text_has_none(prompt: str) -> None:
    assert unescape("(" * 200 if prompt == "(a:x.y)" else prompt) is None


def test_a_prompt_of_comfyui_has_the_same_weights_in_a1111() -> None:
    prompt = r"a ((b:1.3) c:0.5) \(d\) (e)"
    written = as_a1111(comfy.read(prompt, 20, inversions=NO_INVERSIONS))
    assert written == r"a (b:1.3)( c:0.5) \(d\) (e:1.1)"
    assert a1111.read(written, 20, inversions=NO_INVERSIONS) == comfy.read(prompt, 20, inversions=NO_INVERSIONS)
