"""Texts of other forms are refused whole, with what they are; prose that looks a little like one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import RequestError
from tests.pipeline.promptset.reading import read, said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("portraits:\n  - a man\n  - a woman\n", "keys with lists found, as of YAML"),
        ("[prompt]\nwidth = 1024\n", "sections and settings found, as of TOML or INI"),
        ("[[prompt.subset]]\nprompt = 'a fox'\n", "sections and settings"),
        ("1\n00:00:01,000 --> 00:00:04,000\nA fox\n", "subtitles found"),
        ("WEBVTT\n\n00:01.000 --> 00:04.000\nA fox\n", "subtitles found"),
        ("<svg xmlns='x'><text>hi</text></svg>\n", "markup found"),
        ("<prompts>\n<prompt>a fox</prompt>\n", "markup found"),
        ("prompts = [\n    'a fox',\n]\n", "code found"),
        ("const prompts: string[] = [\n  'a fox',\n];\n", "code found"),
        ("import json\nx\n", "code found"),
        ("#!/bin/sh\necho a fox\n", "code found"),
        ("'a fox',\n'a bear',\n'a cat'\n", "a list of code found"),
        ("| prompt | steps |\n|---|---|\n| a fox | 20 |\n", "a table of Markdown found"),
        ("name | text\n:--- | ---:\na | b\n", "a table of Markdown found"),
        ("\\begin{itemize}\n\\item a fox\n", "LaTeX found"),
        ("From: a@b.c\nSubject: prompts\n\na fox\n", "the head of a mail found"),
        ("2024-01-01 12:00:00 INFO a fox\n2024-01-01T12:01:00Z a bear\n", "a log found"),
        ("https://example.org/1\nhttps://example.org/2\n", "addresses found, which are not fetched"),
        ("C:\\img\\a.png\nC:\\my img\\b.PNG\n", "names of files found"),
        ("img/1.png|a fox\nimg/2.png|a bear\n", "names of files with captions found"),
        ("d41d8cd98f00b204e9800998ecf8427e  a.png\n", "checksums found"),
        ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhg==\n", "encoded bytes found"),
        ("1\n2\n3\n", "numbers found"),
        ("prompt|steps\na fox|20\n", "a table with a header found"),
    ],
)
def test_another_form_is_refused_whole(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path / "p.txt", body)


@pytest.mark.parametrize(
    "line",
    [
        "a (girl) reading: a book",
        "from above, a girl",
        "red = blue",
        "a </3 heart",
        "From: the depths",
        "2024-01-01 new year",
        "a.png of a fox",
        "[fox]",
        "1girl, solo",
        "100",
        "'a' and 'b'",
        "<s0><s1> fox",
        "https://example.org",
        "portrait:",
        "The steps: 20, many",
    ],
)
def test_a_prompt_among_others_is_one_whatever_it_looks_like(tmp_path: Path, line: str) -> None:
    rows, found = read(tmp_path / "p.txt", f"{line}\nanother fox\n")
    assert said(found)[0] == []
    assert rows[0].prompt == line


def test_quotes_around_every_line_are_warned_of(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.txt", '"a fox"\n\u201ca bear\u201d\n')
    assert len(rows) == 2
    assert said(found) == ([], ["line 1 (and 1 more): it is in quotes, which are part of its prompt"])


def test_an_infotext_that_lost_its_line_ends_is_read_as_one(tmp_path: Path) -> None:
    settings = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
    rows, found = read(
        tmp_path / "p.txt", f"a fox, snow. Negative prompt: blurry {settings}\na bear {settings}\na cat\n"
    )
    assert said(found) == ([], [])
    assert [(row.prompt, row.negative_prompt, row.seed == 1) for row in rows] == [
        ("a fox, snow", "blurry", True),
        ("a bear", None, True),
        ("a cat", None, False),
    ]
