"""Texts that are more than a prompt a line: read as what they are, or refused; never painted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.picture import Syntax
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.names.samplers import shown_name
from pipeline.promptset.syntax import reading
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import Part, Span
from tests.pipeline.promptset.reading import read, said, values

INFOTEXTS = """\
a fox
Negative prompt: blurry
Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 7, Size: 832x1216, Model: sd_xl_base_1.0

two
lines
Steps: 20, Sampler: Euler a, CFG scale: 5, Seed: 9, Size: 512x512, Face restoration: GFPGAN
"""


def test_options_of_the_web_ui_are_fields(tmp_path: Path) -> None:
    rows, found = read(
        tmp_path / "p.txt",
        """--prompt "a fox" --negative_prompt blurry, bad --steps 20 --width 832 --sampler_name "DPM++ 2M Karras"
--prompt a dog's life --cfg_scale 5 --seed -1 --n_iter 2 --batch_size 2 --restore_faces false
plain, with -- a dash
""",
    )
    assert said(found) == ([], [])
    assert values(rows[0], "prompt negative_prompt steps width") == ["a fox", "blurry, bad", 20, 832]
    assert rows[0].scheduler is not None
    assert shown_name(rows[0].scheduler) == "DPM++ 2M Karras"
    assert values(rows[1], "prompt guidance_scale num_images") == ["a dog's life", 5.0, 4]
    assert rows[1].seed >= 0
    assert rows[2].prompt == "plain, with -- a dash"


@pytest.mark.parametrize(
    ("prompt", "painted"),
    [
        ("a fox, 16:9", "a fox, 16:9"),
        ("ROCK AND ROLL, BREAK it", "ROCK AND ROLL, BREAK it"),
        ("[red|blue] hair", "red|blue hair"),
        ("a [fox:hen:0.5]", "a fox:hen:0.5"),
        ("a (fox:1.3) <lora:film:1>", "a fox <lora:film:1>"),
    ],
)
def test_of_a_prompt_of_kohya_weights_alone_are_read(tmp_path: Path, prompt: str, painted: str) -> None:
    [row], found = read(tmp_path / "p.txt", f"{prompt} --W 64 --h 64\n")
    assert said(found) == ([], [])
    [composed] = reading.read(row.prompt, Syntax.A1111, 10, inversions=NO_INVERSIONS)
    [condition] = composed.schedule
    [part] = condition.parts
    assert composed.weight == 1.0
    assert isinstance(part, Part)
    assert "".join(span.text for span in part.spans if isinstance(span, Span)) == painted


def test_options_of_kohya_that_name_a_file_are_no_list_of_files(tmp_path: Path) -> None:
    _, found = read(tmp_path / "p.txt", "a fox --am 0.8 --cn x.png\n")
    assert "--am found" in said(found)[0][0]


def test_options_of_kohya_are_fields(tmp_path: Path) -> None:
    rows, found = read(
        tmp_path / "p.txt",
        "a fox --n blurry, bad --w 1024 --h 512 --d 42 --l 7.5 --s 30 --ss euler_a --ow 640 --oh 480 --cl 3 --ct 4\n"
        "a dog\n",
    )
    assert said(found) == ([], [])
    assert values(rows[0], "prompt negative_prompt width height seed guidance_scale steps") == [
        "a fox",
        "blurry, bad",
        1024,
        512,
        42,
        7.5,
        30,
    ]
    assert (rows[0].conditioning.original_size, rows[0].conditioning.crop) == ((640, 480), (3, 4))
    assert rows[1].prompt == "a dog"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--steps 20", "prompt: missing"),
        ("--prompt a --steps", "steps: no value found behind it"),
        ("--prompt a --steps many", "steps: Input should be a valid integer"),
        ("--prompt a --prompt b", "prompt: given twice"),
        ("--prompt a --bogus 1", "'--bogus' is none of the options: --batch_size"),
        ('--prompt "a', "a quote is not closed"),
        ("--prompt a --tiling true", "tiling: no picture tiles here"),
        ("a fox --w many", "width: 'many' found behind --w; a whole number wanted"),
        ("a fox --w 64 --w 128", "--w given twice"),
        ("a fox --cl 1", "crop: one of its two options found"),
        ("a fox --ar 16:9 --v 5", "--ar found, an option of Midjourney.*aspect for --ar"),
        ("a fox --s 750 --ar 1:1", "--ar found, an option of Midjourney"),
        ("a fox --wdith 5", "--wdith found, which looks like an option"),
        ("a __color__ fox", "prompt: a wildcard found, as __NAME__"),
        ("a {red|blue} fox", r"prompt: a wildcard found, as \{A\|B\}"),
        ("a {2$$a|b}", "a wildcard found"),
        ("--prompt __animals/cat__", "a wildcard found"),
        ("Negative prompt: blurry", "labels found, as prompt: of YAML"),
        ("# a fox", "it begins as a comment: --comments leaves"),
        ("// a fox", "it begins as a comment: leave it out"),
    ],
)
def test_a_line_that_is_no_prompt_costs_itself(tmp_path: Path, line: str, words: str) -> None:
    rows, found = read(tmp_path / "p.txt", f"first\n{line}\nlast\n")
    [error] = said(found)[0]
    assert re.search(f"line 2: .*{words}", error), error
    assert [row.prompt for row in rows] == ["first", "last"]


def test_comments_are_left_out_if_that_is_said(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.txt", "# three\na fox\n  #two\nb\n", ReadOptions(comments=True))
    assert said(found) == ([], [])
    assert [(row.custom_id, row.prompt) for row in rows] == [("row-2", "a fox"), ("row-4", "b")]


def test_infotexts_are_read_as_what_they_are(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.txt", INFOTEXTS + "left over\n")
    assert values(rows[0], "prompt negative_prompt steps seed width height") == ["a fox", "blurry", 30, 7, 832, 1216]
    assert values(rows[1], "custom_id prompt negative_prompt steps") == ["row-5", "two\nlines", None, 20]
    errors, warnings = said(found)
    assert errors == ["line 8: no line of settings (Steps: 30, Sampler: ...) found at its end"]
    assert warnings == [
        "line 1: model: not carried over: the checkpoint's name; say a model of the deployment, or its own renders "
        "this",
        "line 5: not carried over: Face restoration",
    ]


def test_a_list_is_warned_of(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.txt", "Animals\n1. a fox\n- a dog\n")
    assert len(rows) == 3
    assert said(found)[1] == ["line 2 (and 1 more): it begins as of a list, and that is part of its prompt"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"prompt": "a"}\n{"prompt": "b"}\n', "JSON Lines found; say --input-format jsonl"),
        ('{\n  "prompt": "a"\n}\n', "JSON Lines found"),
        ('["a", "b"]', "an array found; say --input-format json"),
        ('[\n  "a",\n  "b"\n]', "an array found"),
        ("[" * 100_000, "an array found"),
        ("prompt,seed\na,1\n", "a table with a header found; say --input-format csv"),
        ("prompt\na\nb\n", "a table with a header found"),
        ("Prompt\tCategory\tNote\na\tb\tc\n", "a table with a header found.*\\.tsv"),
        ("a\t1\nb\t2\nc\t3\n", "columns parted by tabs found"),
        ("```\na fox\n```\n", "code fences"),
        ("<!DOCTYPE html>\n<html>", "HTML found"),
        ("<?xml version='1.0'?>\n<prompts>", "XML found"),
        ("prompt: a fox\nsteps: 20\n", "labels found, as prompt: of YAML"),
        ("- Prompt: a fox\n", "labels found"),
        ('negative_prompt = "blurry"\nprompt = "a fox"\n', "labels found"),
        ("Positive prompt: a fox\nNegative: blurry\n", "labels found"),
        ("  <html lang=en>", "HTML found"),
        ("{\\rtf1\\ansi a}", "Rich Text"),
        (b"PK\x03\x04abc", "a zip archive, as Excel"),
        (b"%PDF-1.7", "a PDF found"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image found; tessera extract"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\xd0\xcf\x11\xe0", "a document of Office 97"),
        (b"PAR1abc", "a Parquet file found; name it .parquet"),
        (b"BZh91AY", "compressed by bzip2"),
        (b"ab\x00\x00cdefg", "bytes of zero found"),
        ("a fox\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    ],
)
def test_a_text_that_is_something_else_is_refused_whole(tmp_path: Path, body: bytes | str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path / "p.txt", body)


@pytest.mark.parametrize(
    "line", ["[a|b] fox", "a fox, {red}", "prompt, seed and soil", "a _small_ fox", "Steps: up a hill"]
)
def test_prompts_that_only_look_a_little_like_it_are_prompts(tmp_path: Path, line: str) -> None:
    rows, found = read(tmp_path / "p.txt", f"{line}\nanother\n")
    assert said(found)[0] == []
    assert rows[0].prompt == line


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-8-sig"])
@pytest.mark.parametrize(("name", "head"), [("p.txt", ""), ("p.csv", "prompt\n"), ("p.jsonl", None), ("p.json", None)])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str, name: str, head: str | None) -> None:
    text = json.dumps({"prompt": "ä \U0001f98a"}) if head is None else f"{head}ä \U0001f98a\n"
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff", "utf-32-le": "\ufeff"}.get(encoding, "")
    rows, found = read(tmp_path / name, (mark + text).encode(encoding))
    assert said(found) == ([], [])
    assert [row.prompt for row in rows] == ["ä \U0001f98a"]


def test_utf_16_that_breaks_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not UTF-16-LE, as its first bytes say"):
        read(tmp_path / "p.txt", "ab\n".encode("utf-16")[:-1])
