"""Rows as JSON arrays, read element by element, and objects that are none."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RequestError
from pipeline.promptset.formats.by_form import InputFormat, rows_in
from tests.pipeline.promptset.reading import read, said


def test_an_array_holds_prompts_and_objects(tmp_path: Path) -> None:
    body = '\ufeff [ "a",\n {"prompt": "b", "seed": 7},\n 5, {"prompt": "c", "prompt": "d"}, {"prompt": "e"} ] \n'
    for name in ("p.json", "p.jsonl"):
        rows, found = read(tmp_path / name, body)
        assert [(row.custom_id, row.prompt) for row in rows] == [("row-1", "a"), ("row-2", "b"), ("row-5", "e")]
        assert said(found)[0] == [
            "line 3: int found; a JSON object or a prompt wanted",
            "line 4: broken JSON: 'prompt' is there twice",
        ]


def test_a_json_file_may_be_one_object_or_several(tmp_path: Path) -> None:
    assert [row.prompt for row in read(tmp_path / "p.json", '{\n"prompt": "a"\n}\n')[0]] == ["a"]
    assert [row.prompt for row in read(tmp_path / "p.json", '{"prompt": "a"}\n{"prompt": "b"}\n')[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"prompts": [{"prompt": "a"}], "version": 1}', r"has its rows under 'prompts'; .* jq \.\[\"prompts\"\]"),
        ('{"3": {"class_type": "KSampler"}}', "a graph of ComfyUI found"),
        ('{"nbformat": 4, "cells": []}', "a notebook found"),
        ('{"prompt": {"0": "a"}, "steps": {"0": 20}}', "columns found, as pandas writes them"),
        ('{"prompt": ["a", "b"]}', "columns found"),
        ('{"columns": ["prompt"], "index": [0], "data": [["a"]]}', "columns found"),
        ('{"1": "a fox", "2": "a bear"}', "an object of texts by name found; an array of prompts"),
        ('["a" "b"]', "broken JSON behind element 1: a comma or ] wanted"),
        ('["a", {"prompt": "b" x}]', "broken JSON in element 2: Expecting ',' delimiter"),
        ('["a", ', "breaks off behind element 1"),
        ('["a"', "breaks off"),
        ('["a"] "b"', "something behind the end of the array"),
        ('[{"a":' * 200_000, "brackets within brackets|longer than 1,000,000"),
        ('["' + "x" * 1_200_000 + '"]', "element 1 is longer than 1,000,000 characters"),
        (b'["\xff"]', "not UTF-8"),
    ],
)
def test_json_that_is_no_list_of_rows_is_refused_whole(tmp_path: Path, body: str | bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path / "p.json", body)


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    assert said(read(tmp_path / "p.json", " [ ] ")[1])[0] == ["line 1: no rows found; at least one wanted"]


def test_a_large_array_is_read_in_constant_memory() -> None:
    element = json.dumps({"prompt": "x" * 200}) + ",\n"
    body = "[" + element * 40_000 + '"end"]'  # 9 MB
    file: Any = io.BufferedReader(io.BytesIO(body.encode()))
    tracemalloc.start()
    try:
        count = len([0 for _ in rows_in(file, InputFormat.JSON, "p.json")])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40_001
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a"},', "Extra data; no comma wanted between lines"),
        ('{"prompt": "a"}{"prompt": "b"}', "Extra data; an object a line wanted"),
        ('{"prompt": "a", }', "column 17"),
    ],
)
def test_a_broken_line_says_what_is_too_much(tmp_path: Path, line: str, words: str) -> None:
    _, found = read(tmp_path / "p.jsonl", f"{line}\n")
    assert words in said(found)[0][0]
