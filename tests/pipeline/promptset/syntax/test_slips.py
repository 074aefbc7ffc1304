"""What is read and is probably a slip is warned of, by what it does to the picture; usual prompts are not."""

from __future__ import annotations

import pytest

from pipeline.picture import Syntax
from pipeline.promptset.syntax.slips import slips

UNCLOSED, UNOPENED, SQUARE = "( that is not closed", ") that closes nothing", "[ that is not closed"
A1111 = {
    "a (b:1.3": UNCLOSED,
    "a ((b:1.3)": UNCLOSED,
    "a) fox (there": UNCLOSED,
    "a fox:1.3) there": UNOPENED,
    "a [fox": SQUARE,
    "[a:b:0.5": SQUARE,
    "a (fox:)": "an empty weight",
    "a (fox: ) there": "an empty weight",
    "a (:1.3)": "a weight of nothing",
    "a (fox:1.2:1.3)": "two numbers in one bracket",
    "a screen of (16:9)": "a weight of 9 found",
    "at noon (12:30)": "a weight of 30 found",
    "a (fox:13), (hen:1.3)": "a weight of 13 found",
    "a fox BREAK BREAK a hen": "BREAK with nothing beside it",
    "a fox BREAK": "BREAK with nothing beside it",
    "BREAK, a fox": "BREAK with nothing beside it",
    "a fox AND": "AND with nothing beside it",
    "a fox AND AND a hen": "AND with nothing beside it",
    "a fox <lora:film:0.8": "<lora:...",
    "a fox, 16:9": "a number behind a colon at the end found: the whole prompt weighs 9;",
    "a clock that shows 12:30\n": "a number behind a colon at the end found: the whole prompt weighs 30;",
    "masterpiece:1.2, a fox": "a weight that no bracket closes",
    "(masterpiece:1.2, a fox)": "a weight that no bracket closes",
    "[dog:fox:50%]": "a share in percent",
    "a fox, # red": "# found: it and all",
    "a fox < lora:film:0.8>": "<lora:...",
    "<lora:film:0.8> a fox <LORA :film:1>": "<lora:...",
}
FINE = [
    "a fox",
    "a (fox:1.3), ((hen)), [dog], (a:0.85) (b:1.0) (c:2)",
    r"a screen of \(16:9\), \(not closed",
    "a smile :) and a wink ;-)",
    "a fox BREAK a hen AND a dog",
    "[a:b:0.5], [a|b], [:hen:10], [fox::0.4]",
    "<lora:film:0.8> a fox (b:1.3)",
    "BREAKFAST AND LAND",
    "(a (b:1.2) c:0.9)",
    "a fox at 12:30, ratio 16:9, in snow",
    "a fox, 16:(9:1)",
    "a fox :0.5 AND a hen :1.2",
    "chapter 3:1.5, a fox",
]


@pytest.mark.parametrize("text", A1111)
def test_a_slip_says_what_it_means(text: str) -> None:
    found = list(slips(text, Syntax.A1111))
    assert len(found) == 1
    assert found[0].startswith(A1111[text])
    assert "fox" not in found[0].replace("(word", "")  # prompts are client material


@pytest.mark.parametrize("text", FINE)
def test_usual_prompts_hold_none(text: str) -> None:
    assert not list(slips(text, Syntax.A1111))
    assert not list(slips(text, Syntax.NONE))


def test_what_a_program_does_not_read_is_no_slip_there() -> None:
    assert not list(slips("a fox AND", Syntax.A1111, negative=True))
    for text in ("a [fox", "a BREAK BREAK", "a fox AND", "<lora:x"):
        assert not list(slips(text, Syntax.COMFY))
    for syntax in (Syntax.COMFY, Syntax.COMPEL):
        (found,) = slips("a (b:1.3", syntax)
        assert found.startswith(f"{UNCLOSED} found: it is read as a letter")
    assert not list(slips("a (16:9)", Syntax.COMPEL))  # which has no such weights


def test_a_long_prompt_of_open_brackets_is_soon_over() -> None:
    for sign in ("(", ")", "[", "<lora:", "BREAK ", ":1)", "(:", "\\"):
        assert len(list(slips(sign * 4_000, Syntax.A1111))) <= 3


def test_an_embedding_that_comfyui_paints_as_letters_is_a_slip_there() -> None:
    [found] = slips("hands,embedding:bad", Syntax.COMFY)
    assert found.startswith("embedding: behind another sign than a blank")
    assert not list(slips("hands, embedding:bad (embedding:worse:1.2)", Syntax.COMFY))
    assert not list(slips("hands,embedding:bad", Syntax.A1111))
