"""Excel workbooks and Parquet files, as the programs write them."""

from __future__ import annotations

import datetime
import decimal
import io
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.promptset.formats import spreadsheets
from pipeline.promptset.formats.lines import ReadOptions
from tests.pipeline.promptset.reading import read, said, values


def _workbook(sheets: dict[str, list[list[Any]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def test_a_workbook_is_a_table(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 11, 27, 9, 30)
    rows, found = read(
        tmp_path / "p.xlsx",
        _workbook(
            {
                "Notes": [["read me"]],
                "Prompts": [
                    ["Prompt", "seed", "guidance_scale", "strip_metadata", "Day", None],
                    ["a fox", 7.0, 3.5, True, day, None],
                    [None, None, None, None, None, None],
                    ["1984", "8", 5, None, None, None],
                    [2001, None, None, None, None, None],
                ],
            }
        ),
        ReadOptions(extra_columns="metadata"),
    )
    assert said(found) == ([], [])
    assert values(rows[0], "custom_id prompt seed guidance_scale") == ["row-2", "a fox", 7, 3.5]
    assert rows[0].file.strip_metadata
    assert rows[0].metadata == {"Day": "2026-11-27T09:30:00"}
    assert [(row.custom_id, row.prompt) for row in rows[1:]] == [("row-4", "1984"), ("row-5", "2001")]
    assert rows[1].seed == 8


def _with_stated_size(body: bytes, size: str) -> bytes:
    """The workbook with another size of its sheets, as programs leave it that change a sheet and not what it says."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, re.sub(rb'<dimension ref="[^"]*"', f'<dimension ref="{size}"'.encode(), part))
    return file.getvalue()


@pytest.mark.parametrize("size", ["A1", "A1:B2", "A1:A4", "A1:XFD1048576"])
def test_what_a_workbook_says_of_its_size_is_not_believed(tmp_path: Path, size: str) -> None:
    body = _workbook({"A": [["prompt", "seed", "steps"], ["a", 1, "=5+5"], ["b", 2, 20], ["c", 3]]})
    rows, found = read(tmp_path / "p.xlsx", _with_stated_size(body, size))
    assert [(row.prompt, row.seed) for row in rows] == [("b", 2), ("c", 3)]
    assert said(found)[0][0].startswith("line 2: column 3 has a formula without a value")


def test_names_and_times_of_a_workbook_are_what_was_meant(tmp_path: Path) -> None:
    """A spreadsheet program takes 16:9 for a time, and 32:9 for a duration."""
    aspects = [datetime.time(16, 9), datetime.timedelta(hours=32, minutes=9), "1:1"]
    body = _workbook({"A": [["Positive prompt", "aspect"], *(["a", aspect] for aspect in aspects)]})
    rows, found = read(tmp_path / "p.xlsx", body)
    assert said(found)[0] == []
    assert [row.width > row.height for row in rows] == [True, True, False]
    assert rows[1].width / rows[1].height > 3


def test_a_formula_without_a_value_costs_its_row(tmp_path: Path) -> None:
    body = _workbook({"Prompts": [["prompt", "seed"], ["a", "=1+1"], ["b", 3]]})
    rows, found = read(tmp_path / "p.xlsx", body)
    assert [row.prompt for row in rows] == ["b"]
    assert said(found)[0] == [
        "line 2: column 2 has a formula without a value; open it in a spreadsheet program and save it"
    ]


@pytest.mark.parametrize(
    ("sheets", "words"),
    [
        (
            {"A": [["prompt"], ["a"]], "B": [["prompt"], ["b"]]},
            "several sheets with a column `prompt` found .*'A', 'B'",
        ),
        ({"A": [["text"], ["a"]]}, "no sheet with a column `prompt` found"),
    ],
)
def test_one_sheet_has_the_prompts(tmp_path: Path, sheets: dict[str, list[list[Any]]], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path / "p.xlsx", _workbook(sheets))


def test_an_unknown_column_of_a_workbook_is_named(tmp_path: Path) -> None:
    [error] = said(read(tmp_path / "p.xlsx", _workbook({"A": [["prompt", "sede"], ["a", 1]]}))[1])[0]
    assert error.startswith("line 1: sede: unknown column; did you mean seed?")


def _zip(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            archive.writestr(name, body)
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"prompt\na\n", "no Excel workbook"),
        (b"PK\x03\x04 half a download", "a broken zip archive"),
        (_zip({"a.txt": b"x"}), "a zip archive found; a workbook"),
        (_zip({"word/document.xml": b"x"}), "a document of Word found"),
        (_zip({"xl/workbook.xml": b"<x", "xl/worksheets/sheet1.xml": b"<"}), "a workbook that cannot be read"),
        (
            _zip({"xl/workbook.xml": b"", "xl/worksheets/sheet1.xml": bytes(80 << 20)}),
            "a workbook of 2 parts with 83,886,080 bytes",
        ),
    ],
)
def test_what_is_no_workbook_or_swells_is_refused(tmp_path: Path, body: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path / "p.xlsx", body)


def test_parquet_is_a_table_with_types(tmp_path: Path) -> None:
    body = _parquet(
        {
            "prompt": ["a fox", "two", None],
            "seed": pa.array([7, None, 3], pa.int64()),
            "guidance_scale": [3.5, float("nan"), 1.0],
            "Category": ["x", None, "y"],
            "metadata": [{"n": 1}, {"n": 2}, None],
        }
    )
    rows, found = read(tmp_path / "p.parquet", body, ReadOptions(extra_columns="metadata"))
    assert said(found)[0] == ["line 3: prompt: missing"]
    assert values(rows[0], "custom_id prompt seed guidance_scale metadata") == [
        "row-1",
        "a fox",
        7,
        3.5,
        {"n": 1, "Category": "x"},
    ]
    assert values(rows[1], "prompt guidance_scale metadata") == ["two", 5.0, {"n": 2}]


def test_texts_that_parquet_has_as_bytes_are_texts(tmp_path: Path) -> None:
    body = _parquet(
        {
            "prompt": pa.array([b"a f\xc3\xb6x", b"\xff\xfe"], pa.binary()),
            "seed": pa.array([decimal.Decimal("7.00"), None]),
            "metadata": pa.array([[("k", b"v")], []], pa.map_(pa.string(), pa.binary())),
            "__index_level_0__": [3, 9],
        }
    )
    rows, found = read(tmp_path / "p.parquet", body)
    assert [values(row, "prompt seed metadata") for row in rows] == [["a föx", 7, {"k": "v"}]]
    assert said(found)[0] == ["line 2: prompt: bytes that are no UTF-8 found; a text wanted"]


@pytest.mark.parametrize(
    ("body", "words"), [(b"x", "no Parquet file"), (b"PAR1 half a download", "a Parquet file that cannot be read")]
)
def test_what_is_no_parquet_is_refused(tmp_path: Path, body: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(tmp_path / "p.parquet", body)


def test_a_row_group_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "MAX_GROUP_BYTES", 100)
    with pytest.raises(RequestError, match="a row group of more than"):
        read(tmp_path / "p.parquet", _parquet({"prompt": ["a" * 50 + str(number) for number in range(100)]}))


@pytest.mark.parametrize(("name", "module"), [("p.xlsx", "openpyxl"), ("p.parquet", "pyarrow")])
def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    body = _workbook({"A": [["prompt"], ["a"]]}) if name.endswith("xlsx") else _parquet({"prompt": ["a"]})
    with pytest.raises(RequestError, match=rf"{module} is not installed, .*tessera-render\[tables\]"):
        read(tmp_path / name, body)
