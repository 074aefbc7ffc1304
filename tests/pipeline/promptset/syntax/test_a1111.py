"""Prompts are read as A1111's web UI reads them; the tables are written by hand from its parser's rules."""

from __future__ import annotations

import time

import pytest

from pipeline.promptset.syntax import a1111
from pipeline.promptset.syntax.changes import texts_by_step
from pipeline.promptset.syntax.emphasis import parts_of
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import BadSyntax, Composed, LoraTag, Part, Span

WEIGHTS = {
    "plain text": [("plain text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(one)(two)": [("onetwo", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
        ("sky", 1.4641), (".", 1.1),
    ],
    "[a (b] c)": [("a ", 1 / 1.1), ("b", 1.0), (" c", 1.1)],
    "(a: 1.2 )": [("a", 1.2)],
    "(a:-0.5)": [("a", -0.5)],
    "(a:b)": [("a:b", 1.1)],
    "no bracket :1.3) here": [("no bracket :1.3) here", 1.0)],
    ") ] alone": [(") ] alone", 1.0)],
    r"back\slash": [("backslash", 1.0)],
    r"two\\": [("two\\", 1.0)],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("text", WEIGHTS)
def test_brackets_weigh_as_in_a1111(text: str) -> None:
    (part,) = parts_of(text)
    wanted = WEIGHTS[text]
    assert [one.text for one in part if isinstance(one, Span)] == [words for words, _ in wanted]
    assert [one.weight for one in part] == pytest.approx([weight for _, weight in wanted])


def test_break_starts_a_part_and_takes_the_blanks_around_it() -> None:
    assert parts_of("a  BREAK\n b") == ((Span("a"),), (Span("b"),))
    assert parts_of("a BREAK BREAK") == ((Span("a"),), (), ())
    assert parts_of("BREAKFAST, OUTBREAK") == ((Span("BREAKFAST, OUTBREAK"),),)


def test_break_in_brackets_starts_a_part_too() -> None:
    assert parts_of("(a BREAK b:1.5)") == ((Span("a", 1.5),), (Span("b", 1.5),))


# The first ten are the examples in A1111's own parser.
CHANGES = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [unbalanced": [(10, "a [unbalanced")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "[a::3]": [(3, "a"), (10, "")],
    "[a:b:1.0]": [(10, "a")],
    "[a:b:0]": [(10, "b")],
    "[a:b:-1]": [(10, "b")],
    "[a:b:25]": [(10, "a")],
    "[a:b]": [(10, "[a:b]")],
    "[a:b:c:3]": [(10, "[a:b:c:3]")],
    "a | b [c:d:3]": [(10, "a | b [c:d:3]")],
    r"[a\:b:c:3]": [(3, r"a\:b"), (10, "c")],
    "[(x:1.2)|b]": [(n, "b" if n % 2 == 0 else "(x:1.2)") for n in range(1, 11)],
    "[|x]y": [(n, "xy" if n % 2 == 0 else "y") for n in range(1, 11)],
}


@pytest.mark.parametrize("text", CHANGES)
def test_brackets_change_with_the_step_as_in_a1111(text: str) -> None:
    assert texts_by_step(text, 10) == CHANGES[text]


def test_in_the_second_pass_the_steps_of_the_first_are_over() -> None:
    assert texts_by_step("[a:b:0.5][c:d:3][e:f:1.5]", 8, later_pass=True) == [(4, "bde"), (8, "bdf")]


def _read(text: str, *, negative: bool = False) -> tuple[Composed, ...]:
    return a1111.read(text, 10, negative=negative, inversions=NO_INVERSIONS)


def _texts(text: str, *, negative: bool = False) -> list[tuple[str, float]]:
    return [
        ("".join(span.text for span in part.spans if isinstance(span, Span)), one.weight)
        for one in _read(text, negative=negative)
        for part in one.schedule[0].parts[:1]
        if isinstance(part, Part)
    ]


def test_and_composes_prompts_with_weights() -> None:
    assert _texts("a cat AND a dog :1.2 AND AND\nfish: -.5") == [
        ("a cat", 1.0), (" a dog", 1.2), ("", 1.0), ("\nfish", -0.5),
    ]  # fmt: skip
    assert _texts("SAND AND BRAND") == [("SAND", 1.0), (" BRAND", 1.0)]
    assert _texts("one prompt :0.5") == [("one prompt", 0.5)]


def test_a_negative_prompt_has_neither_and_nor_loras() -> None:
    assert _texts("a AND b:0.5 <lora:x:1>", negative=True) == [("a AND b:0.5 <lora:x:1>", 1.0)]


TAGS = {
    "<lora:film>": LoraTag("film", 1.0, 1.0),
    "<lora:film:0.8>": LoraTag("film", 0.8, 0.8),
    "<lora:film:0.5:0.9>": LoraTag("film", 0.9, 0.5),
    "<lora:film:te=0.5:unet=0.9>": LoraTag("film", 0.9, 0.5),
    "<lora:film:unet=0.9>": LoraTag("film", 0.9, 1.0),
    "<lyco:film v2:-1>": LoraTag("film v2", -1.0, -1.0),
    "<lora:film:0.8:lbw=1,0,0.5>": LoraTag("film", 0.8, 0.8, "1,0,0.5"),
    "<lora:film:0.8:1:1,0,0.5>": LoraTag("film", 1.0, 0.8, "1,0,0.5"),
    "<lora:film:1:lbw=ALL:te=0.5>": LoraTag("film", 0.5, 0.5, "ALL"),
}


@pytest.mark.parametrize("tag", TAGS)
def test_a_lora_is_taken_out_of_the_prompt(tag: str) -> None:
    assert a1111.lora_tags(f"a {tag} b") == (TAGS[tag],)
    assert _texts(f"a {tag} b") == [("a  b", 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(a:1000000000)", "weight of 1e.09 found; -100 to 100 wanted"),
        ("(a:1.2.3)", "no number"),
        ("(" * 101, "more than 100 deep"),
        ("[" * 20_000, "more than 100 deep"),
        ("(" * 60 + "a" + ")" * 60, "weight of 304.5 found"),
        ("(((a:9):9):9)", "weight of 729 found"),
        (" AND ".join("abcdefghijklmnopq"), "17 prompts between AND found; at most 16 wanted"),
        ("a :101", "behind AND's prompt of 101 found"),
        ("[a|b]" * 101, "101 brackets that change"),
    ],
)
def test_what_would_be_noise_or_take_for_ever_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadSyntax, match=message):
        _read(text)
    assert not a1111.needs_no_look(text, negative=False)


def test_a_thousand_different_texts_are_too_many() -> None:
    turns = "".join(f"[{'|'.join(map(str, range(n)))}]" for n in (7, 11, 13))
    with pytest.raises(BadSyntax, match="1000 different texts in 1000 steps found; at most 256 wanted"):
        a1111.read(turns, 1000, inversions=NO_INVERSIONS)


@pytest.mark.parametrize(
    "tag",
    ["<hypernet:x:1>", "<foo:x>", "<lora::1>", "<lora:x:nan>", "<lora:x:a>", "<lora:x:1:1:1:1>", "<lora:x:start=1>"],
)
def test_an_extra_network_that_cannot_be_had_is_refused(tag: str) -> None:
    with pytest.raises(BadSyntax, match=" wanted"):
        a1111.lora_tags(tag)
    assert not a1111.needs_no_look(tag, negative=False)


@pytest.mark.parametrize(
    "text",
    ["[a|" * 6_666, ":" * 20_000, "(a:1.1)" * 2_857, "[" + "|" * 19_998 + "]", " " * 20_000, "(:" * 10_000,
     "\\" * 20_000, "BREAK " * 3_333, "AND " * 5_000, "<lora:" * 3_333, ":1" * 10_000 + ")"],
)  # fmt: skip
def test_twenty_thousand_characters_take_linear_time(text: str) -> None:
    began = time.process_time()
    try:
        a1111.lora_tags(text)
        a1111.read(text, 30, inversions=NO_INVERSIONS)
    except BadSyntax:
        pass
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a fox # red", "a fox"),
        ("a fox, # red\nin snow", "a fox, \nin snow"),
        ("# a note\na fox", "\na fox"),
        ("a fox\n# a note (with: brackets\nin snow", "a fox\nin snow"),
        ("a fox # <lora:film:1> AND a hen", "a fox"),
    ],
)
def test_comments_are_left_out_to_the_end_of_their_line(text: str, wanted: str) -> None:
    for negative in (False, True):
        [composed] = a1111.read(text, 10, negative=negative, inversions=NO_INVERSIONS)
        [condition] = composed.schedule
        [part] = condition.parts
        assert isinstance(part, Part)
        spans = [span.text for span in part.spans if isinstance(span, Span)]
        assert "".join(spans).rstrip() == wanted
    assert a1111.lora_tags(text) == ()
