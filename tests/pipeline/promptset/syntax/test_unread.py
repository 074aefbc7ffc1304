"""Syntax that is not read is noticed, plain English is not taken for it."""

from __future__ import annotations

import pytest

from pipeline.picture import Syntax
from pipeline.promptset.decisions.prompts import unread_warning
from pipeline.promptset.syntax.unread import ELSEWHERE, unread


@pytest.mark.parametrize(
    "text",
    [
        "a (red:1.3) fox", "a (red fox: 0.8)", "(fox:2)", "((masterpiece)), fox", "[[blurry]]", "<lora:film:0.8> fox",
        "<hypernet:x:1>", "a fox BREAK a hill", "fox, BREAK, hill", "a fox\nBREAK\na hill", "a cat AND a dog",
        "a [dog:cat:0.5]", "[cat:.3]", "a [red|blue] fox", "embedding:easy, fox", "a++ fox", "red++, fox", "(a fox)++",
        '("a fox", "a hill").and()', "(red:+1.3)", "(red:-0.5)", "(red:-1)", "(red:2.)", "(red:1,3)",
        "\uff08red\uff1a1.3\uff09 fox", "a \uff08red:1.3\uff09", "(red\uff1a1.3)",
        "\uff1clora\uff1afilm\uff1a1\uff1e fox",
        "a {prompt} in oil", "a fox ### blurry", "fox::2", "fox::1.5, hen",
        "(score_9:1.2)", "(year 2024:1.2)", r"(saber \(fate\):1.2)", "(red :1.3)", "((red) hair:1.3)", "(fox:10)",
        "a fox BREAK Hill", "a fox, (best quality)1.4", '"a fox"++', "{{masterpiece}}, fox", "1.2::fox::, hen",
        "/imagine prompt: a fox", "/imagine a fox",
        "(red:nan)", "(red:1e9)", "<LORA:film:1> fox", "__animals__ in snow", "a {red|blue} fox", "a __style/ink*__ a",
    ],
)  # fmt: skip
def test_syntax_is_noticed(text: str) -> None:
    assert unread(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "a fox (see below)", "ratio (16:9)", "a poster (aspect 16:9)", "(John 3:16)", "(at 5:30)", "[12:30:45]",
        "[sic] and [1]",
        "ROCK AND ROLL", "COFFEE BREAK", 'a sign that says "BREAK"', "a C++ book", "a c++ book", "notepad++",
        "Disney+ logo",
        "smile :) and :(", "a list: [one, two]", "f(x) = (x+1)", "(a: b)", "(circa 1900: 3 men)", "x < y > z", "a+b",
        "(a very (small) fox)", "snake_case and __", "{a}", "a|b",
        "\uff08\u6bd4\u7387 16\uff1a9\uff09", "\u72d0\u72f8\uff08\u96ea\uff09", "\u6642\u523b\uff1a12", "std::vector",
        "a wide shot (2.35:1)", "film (1:1.85)", "(see verse 3:1)", "scale (1:10)", "(at 10:30)", "(the year 1984)",
        "a (50mm) 1.8 lens", "(a) 1.5 m tall", "a LUNCH BREAK HOTEL", "ratio 1::2", "C::method", "a path /imagine/x",
        "(x, 1,3)", "price: 1,30 (about)", "an embedding of words", "a fox, 50% off (until 12:00)",
    ],
)  # fmt: skip
def test_plain_english_is_not_taken_for_it(text: str) -> None:
    assert unread(text) is None


def test_what_the_row_s_own_syntax_reads_is_read() -> None:
    assert unread("a (red:1.3) fox, ((b)) embedding:x", Syntax.COMFY) is None
    assert unread("a (red:1.3) <lora:film:1>", Syntax.COMFY) == "<lora:name:0.8>"
    assert unread("(red:1.3) [a:b:0.5] BREAK <lora:film:1>", Syntax.A1111) is None
    assert unread("a [fox::0.5] and [fox::10]", Syntax.A1111) is None
    assert unread("red++ fox", Syntax.A1111) == "word++"
    assert unread("a (red:1.3) fox", Syntax.COMPEL) == "(word:1.3)"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 20_000,
        "[a:" * 6_666,
        "(a" * 10_000,
        "AND " * 5_000,
        "+" * 20_000,
        "<lora:" * 3_000,
        "_" * 20_000,
        "{a" * 10_000,
        "(a1" * 10_000 + ":",
        "a " * 10_000 + ":",
        "{{" * 10_000,
        "1::" * 10_000,
    ],
)  # fmt: skip
def test_a_long_prompt_is_looked_through_in_time(text: str) -> None:
    unread(text)


@pytest.mark.parametrize("text", ["(red:1e9)", "(red:nan)", "(red:1,3)", "__animals__", "a {red|blue} fox"])
def test_what_a1111_paints_as_letters_is_noticed_there_too(text: str) -> None:
    assert unread(text, Syntax.A1111) is not None


@pytest.mark.parametrize(
    "text",
    ["a <random:red,blue> fox", "a <wildcard:animal>", "<segment:face> a fox", "a fox --ar 16:9", "a fox::2 hen::1"],
)
def test_what_other_programs_fill_in_is_noticed_with_its_name(text: str) -> None:
    found = unread(text)
    assert found in ELSEWHERE
    assert found in unread_warning(str(found), None)


@pytest.mark.parametrize("text", ["a fox -- and a hen", "std::vector", "a list[::2]", "a <random> walk", "12::30"])
def test_what_looks_a_little_like_other_programs_is_plain(text: str) -> None:
    assert unread(text) not in ELSEWHERE
