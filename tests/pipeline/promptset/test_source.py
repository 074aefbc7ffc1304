"""Prompt sets in every form: JSON Lines, CSV, text; plain, gzip, zstd; path, standard input, s3://."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.allowed import AllowedLora
from pipeline.deployment.settings import Settings
from pipeline.errors import RequestError, RowError
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.formats.by_form import InputFormat
from pipeline.promptset.formats.source import Prompts, open_source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

ROWS: list[dict[str, Any]] = [
    {
        "custom_id": "a",
        "prompt": 'a "red" fox, in snow;\nsecond line',
        "negative_prompt": "",
        "seed": 7,
        "width": 128,
        "guidance_scale": 3.5,
        "scheduler": "DPM++ 2M Karras",
        "loras": "film:0.5, grain",
        "strip_metadata": True,
        "metadata": {"k": "v"},
    },
    {"prompt": "b", "negative_prompt": None, "size": "128x256"},
    {"prompt": " c ", "negative_prompt": "blur", "num_images": 2, "aspect": "16:9"},
]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    """As a program that knows the conventions writes it."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(row[column]) if column in row else "" for column in columns)
    return file.getvalue().encode()


def _cell(value: Any) -> str:
    if value == "":
        return '""'
    return value if isinstance(value, str) else json.dumps(value)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the program zstd does
}


def _resolved(prompts: Prompts, **options: Any) -> tuple[list[ResolvedRow], list[str]]:
    source = open_source(prompts, **options)
    found = Validation(source.name)
    rows = resolved_rows(
        source, Options(), deployment(loras={"film": AllowedLora(), "grain": AllowedLora()}), found, batch_seed=1
    )
    return list(rows), [str(error) for error in found.errors]


def _pictures(rows: list[ResolvedRow]) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"custom_id", "seed"}) for row in rows]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    ("suffix", "body"),
    [(".jsonl", _jsonl(ROWS)), (".csv", _csv(ROWS)), (".csv", _csv(ROWS, ";")), (".tsv", _csv(ROWS, "\t"))],
)
def test_every_form_gives_the_same_rows(tmp_path: Path, suffix: str, body: bytes, packed: str) -> None:
    path = tmp_path / f"P{suffix.upper()}{packed}"
    path.write_bytes(PACKED[packed](b"\xef\xbb\xbf" + body))
    rows, errors = _resolved(path)
    assert not errors
    assert _pictures(rows) == _pictures(_resolved(ROWS)[0])
    assert [row.negative_prompt for row in rows] == ["", None, "blur"]
    assert rows[0].prompt == ROWS[0]["prompt"]


@pytest.mark.parametrize("packed", PACKED)
def test_a_text_has_a_prompt_a_line(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"p.txt{packed}"
    path.write_bytes(PACKED[packed]("a fox, {red}\n\n  two # \r\nü".encode()))
    rows, errors = _resolved(path)
    assert not errors
    assert [(row.custom_id, row.prompt) for row in rows] == [
        ("row-1", "a fox, {red}"),
        ("row-3", "two #"),
        ("row-4", "ü"),
    ]


@pytest.mark.parametrize(
    ("body", "input_format", "count"),
    [
        (_jsonl(ROWS), None, 3),
        (gzip.compress(_jsonl(ROWS)), None, 3),
        (_csv(ROWS), InputFormat.CSV, 3),
        (b"a\nb\n", InputFormat.TXT, 2),
    ],
)
def test_standard_input_is_json_lines_unless_said(
    monkeypatch: pytest.MonkeyPatch, body: bytes, input_format: InputFormat | None, count: int
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
    rows, errors = _resolved("-", input_format=input_format)
    assert not errors
    assert len(rows) == count


def test_what_is_said_outranks_the_name_and_content_its_compression(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(gzip.compress(b"a fox\n"))  # neither JSON Lines nor plain
    assert [row.prompt for row in _resolved(path, input_format=InputFormat.TXT)[0]] == ["a fox"]
    plain = tmp_path / "p.txt.gz"
    plain.write_bytes(b"a fox\n")
    assert [row.prompt for row in _resolved(plain)[0]] == ["a fox"]


def test_an_object_of_any_bucket_is_read_with_the_deployments_credentials(
    artifacts: Artifacts, settings: Settings
) -> None:
    artifacts.put("in/p.csv.zst", PACKED[".zst"](_csv(ROWS)), content_type="text/csv")
    url = f"s3://{settings.s3_bucket}/{settings.s3_prefix}/in/p.csv.zst"
    rows, errors = _resolved(url, bucket=artifacts)
    assert not errors
    assert _pictures(rows) == _pictures(_resolved(ROWS)[0])


@pytest.mark.parametrize("key", ["/in/nothing.csv", "", "/"])
def test_an_object_that_is_not_there_is_named(artifacts: Artifacts, settings: Settings, key: str) -> None:
    with pytest.raises(RequestError, match=r"no such object|BUCKET/KEY wanted"):
        _resolved(f"s3://{settings.s3_bucket}{key}", bucket=artifacts, input_format=InputFormat.CSV)
    with pytest.raises(RequestError, match="no such object"):
        _resolved("s3://no-such-bucket-here/p.csv", bucket=artifacts)
    with pytest.raises(RequestError, match="no deployment is configured"):
        open_source("s3://b/p.csv")


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("harm", [lambda body: body[:-9], lambda body: body[:40] + b"\x00" * 9 + body[49:]])
def test_a_compressed_file_that_is_damaged_is_refused_whole(
    tmp_path: Path, packed: str, harm: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"p.txt{packed}"
    body = "".join(f"prompt {n * n}\n" for n in range(500)).encode()
    path.write_bytes(harm(PACKED[packed](body)))
    with pytest.raises(RequestError, match=r"p\.txt.*: its compression is broken or it breaks off"):
        _resolved(path)


def test_several_compressed_members_are_one_file(tmp_path: Path) -> None:
    for packed in (".gz", ".zst"):
        path = tmp_path / f"p.txt{packed}"
        path.write_bytes(PACKED[packed](b"a\n") + PACKED[packed](b"b\n"))
        assert [row.prompt for row in _resolved(path)[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b"prompt,widht\na,64\n", ["line 1: widht: unknown column; did you mean width?"]),
        (b"prompt,,x y z\na,b,c\n", ["line 1: x y z: unknown column"]),
        (b"\n\nprompt,x y z\na,b\n", ["line 3: x y z: unknown column"]),
        (b"prompt,,seed,\na,,1,\nb,c,,\n", ["line 3: column 2 has a cell and no name in the header"]),
        (b"prompt,seed\ra,1\rb,2\r", ["line 1: carriage returns without line feeds found"]),
        (b"prompt," + b"x" * 140_000 + b"\na,b\n", ["line 1: broken CSV: field larger than field limit"]),
        (b"prompt,guidance_scale\na,1_0\n", ["line 2: guidance_scale: Input should be a valid number"]),
        (b'prompt,metadata\na,"{""k"": 1, ""k"": 2}"\n', ["line 2: metadata: Input should be a valid dictionary"]),
        (b"prompt,prompt\na,b\n", ["line 1: prompt: there are two columns of this name"]),
        (b"prompt,metadata.\na,b\n", ["line 1: metadata.: unknown column"]),
        (b"prompt,steps,num_inference_steps\na,7,7\n", ["line 2: steps: given twice"]),
        (b"prompt,steps\nSECRET,many\n", ["line 2: steps: Input should be a valid integer ('many' found)"]),
        (b"prompt,steps\na,7.5\n", ["line 2: steps: Input should be a valid integer"]),
        (b"prompt,steps\na," + b"9" * 5000 + b"\n", ["line 2: steps: Input should be a valid integer"]),
        (b"prompt,guidance_scale\na,inf\n", ["line 2: guidance_scale: Input should be a finite number"]),
        (b"prompt,seed\nNaN,1\n", ["line 2: prompt: NaN found, which pandas writes where nothing is"]),
        (b"prompt,seed\na,#REF!\n", ["line 2: seed: #REF! found, an error of the spreadsheet"]),
        (b"prompt,strip_metadata\na,maybe\n", ["line 2: strip_metadata: Input should be a valid boolean"]),
        (b"prompt,metadata\nSECRET,SECRET\n", ["line 2: metadata: Input should be a valid dictionary"]),
        (b"prompt,seed\nSECRET,1,2\n", ["line 2: 3 cells found; the header has 2 columns"]),
        (b"prompt,seed\n,1\n", ["line 2: prompt: missing"]),
        (b'prompt\na\n"b\nSECRET\n', ["line 3: broken CSV: a quote is opened and not closed in this line"]),
        (b'prompt\n"a" SECRET\n', ["line 2: broken CSV: ',' expected after '\"'"]),
        (b"prompt\nSECRET \xff\nb\n", ["line 2: not UTF-8 at byte 8"]),
        (b"\xff\xff\n", ["line 1: not UTF-8 at byte 1; in Excel, save as CSV UTF-8"]),
        (b"prompt\n" + b"x" * 1_000_001 + b"\nb\n", ["line 2: longer than 1,000,000 bytes"]),
        (b"prompt\n", ["line 1: no rows found"]),
        (b"", ["line 1: no rows found"]),
    ],
)
def test_what_is_wrong_with_a_table_is_said_by_line_and_column(tmp_path: Path, body: bytes, errors: list[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(body)
    found = _resolved(path)[1]
    assert [message[: len(start)] for message, start in zip(found, errors, strict=True)] == errors
    assert "SECRET" not in "".join(found)


def test_text_without_line_feeds_is_refused_and_a_mark_within_is_none_of_its_words(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"a\rb\rc\r")
    assert _resolved(path)[1] == [
        "line 1: carriage returns without line feeds found; lines that end in LF or CRLF wanted"
    ]
    path.write_bytes(b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb\r\n")
    assert [row.prompt for row in _resolved(path)[0]] == ["a", "b"]


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        wrote = pool.submit(path.write_bytes, b"a\nb\n")
        assert [row.prompt for row in _resolved(path)[0]] == ["a", "b"]
        wrote.result()
    with pytest.raises(RequestError, match="no such file"):
        _resolved(tmp_path, input_format=InputFormat.TXT)


@pytest.mark.parametrize("one", [{"prompt": "x", "seed": 3}, Row(prompt="x"), b"x"])
def test_a_single_row_is_no_list_of_rows(one: Any) -> None:
    with pytest.raises(RequestError, match=r"a list of prompts or rows wanted: submit\(\[row\]\)"):
        open_source(one)


def test_standard_input_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(RequestError, match="standard input is closed"):
        open_source("-")


def test_zstd_may_begin_with_a_frame_that_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.txt.zst"
    path.write_bytes(b"\x5d\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc" + PACKED[".zst"](b"a\n"))
    assert [row.prompt for row in _resolved(path)[0]] == ["a"]


def test_a_table_says_none_and_empty_and_keeps_counting_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,negative_prompt,seed\n"two\nlines",,7.0\n\nb,"""""",\nc,null,8\nd,"",\n')
    source = open_source(path)
    rows = resolved_rows(source, Options(negative_prompt="blur"), deployment(), Validation(source.name), batch_seed=1)
    assert [(row.custom_id, row.negative_prompt) for row in rows] == [
        ("row-2", "blur"),
        ("row-5", ""),
        ("row-6", None),
        ("row-7", "blur"),
    ]


def test_metadata_stands_in_columns_of_its_own_or_as_json(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,metadata,metadata.client,metadata.n\na,"{""k"": 1}",x,2\nb,,y,\n')
    assert [row.metadata for row in _resolved(path)[0]] == [{"k": 1, "client": "x", "n": "2"}, {"client": "y"}]


def test_rows_in_memory_are_typed_ones_too() -> None:
    rows, errors = _resolved([Row(prompt="a", steps=7), "b"])
    assert not errors
    assert [row.steps for row in rows] == [7, 30]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
@pytest.mark.parametrize("packed", PACKED)
def test_a_large_file_is_read_in_constant_memory(tmp_path: Path, suffix: str, packed: str) -> None:
    prompt = "x" * 200
    line = {".jsonl": json.dumps({"prompt": prompt}), ".csv": prompt, ".txt": prompt}[suffix].encode() + b"\n"
    head = b"prompt\n" if suffix == ".csv" else b""
    path = tmp_path / f"p{suffix}{packed}"
    path.write_bytes(PACKED[packed](head + line * 40_000))  # 8 MB
    tracemalloc.start()
    try:
        count = sum(not isinstance(item, RowError) for _, item in open_source(path).rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40_000
    assert peak < 4_000_000
