"""What little bytes can ask for: each is refused for what it is, before it takes minutes or memory.

Counted by what is read, not by a clock, so that a slow machine says the same.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pipeline.errors import PromptSetError, RequestError
from pipeline.promptset import validate
from pipeline.promptset.fields.row import Options, Row
from pipeline.promptset.formats import by_form as formats
from pipeline.promptset.formats import lines, source
from pipeline.promptset.formats.lines import MAX_FIELDS, MAX_LINE_BYTES
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.names import aliases
from pipeline.promptset.validate import MAX_ERRORS_OF_ROW, Validation, fields_errors, resolved_rows
from tests.factories import deployment

MIB = 1 << 20


def _validated(path: Path, most_invalid: int = 10_000) -> Validation:
    found = Validation(path.name, most_invalid=most_invalid)
    for _row in resolved_rows(open_source(path), Options(), deployment(max_rows=100_000), found, batch_seed=0):
        pass
    return found


def _zstd(pieces: Iterator[bytes]) -> bytes:
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    return b"".join([*map(packer.compress, pieces), packer.flush()])


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_endless_empty_lines_end_where_a_spreadsheet_does(tmp_path: Path) -> None:
    body = _zstd(b"\n" * MIB for _ in range(64))
    with pytest.raises(RequestError, match=r"p\.jsonl\.zst: more than 1,048,576 lines without a row found; .* wanted"):
        _validated(_file(tmp_path, "p.jsonl.zst", body))
    assert len(body) < 10_000


@pytest.mark.parametrize(
    ("suffix", "head", "line"),
    [
        ("txt", b"", b" \t\r\n"),
        ("csv", b"", b"\n"),
        ("csv", b"prompt,steps\n", b", \n"),
        ("csv", b"prompt;dpi\n", b'"";\n'),
    ],
)
def test_a_line_of_blanks_or_empty_cells_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, head: bytes, line: bytes
) -> None:
    monkeypatch.setattr(lines, "MAX_EMPTY_LINES", 100)
    with pytest.raises(RequestError, match=rf"p\.{suffix}: more than 100 lines without a row found"):
        _validated(_file(tmp_path, f"p.{suffix}", head + line * 101))
    rows = (b"" if head or suffix == "txt" else b"prompt\n") + b"a"
    assert _validated(_file(tmp_path, f"p.{suffix}", head + line * 100 + rows)).rows == 1


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_file_that_swells_out_of_all_proportion_is_refused_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    monkeypatch.setattr(source, "MAX_FREE_BYTES", MIB)
    body = b"x" * (64 * MIB)
    path = _file(tmp_path, f"p.txt.{packed}", gzip.compress(body) if packed == "gz" else zstandard.compress(body))
    with pytest.raises(
        RequestError, match=r"p\.txt\.\w+: [0-9,]+ bytes found in [0-9,]+ compressed ones; .*at most 200 times"
    ):
        _validated(path)


def test_rows_that_are_all_alike_may_swell_more_up_to_a_bound(tmp_path: Path) -> None:
    body = b'{"prompt":"a lighthouse in a storm, oil on canvas"}\n' * 6_000
    assert len(zstandard.compress(body)) * source.MAX_RATIO < len(body) < source.MAX_FREE_BYTES
    assert _validated(_file(tmp_path, "p.jsonl.zst", zstandard.compress(body))).rows == 6_000


def test_a_file_larger_than_any_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_CONTENT_BYTES", 1000)
    with pytest.raises(RequestError, match="more than the rows of any batch; split it"):
        _validated(_file(tmp_path, "p.txt", b"a row\n" * 1000))


def _object(fields: int, value: str = "0") -> str:
    return "{" + ",".join(f'"{number:x}":{value}' for number in range(fields)) + "}"


@pytest.mark.parametrize("line", [_object(50_000), '{"prompt":"a","metadata":' + _object(50_000) + "}"])
def test_an_object_of_too_many_fields_is_counted_and_refused(tmp_path: Path, line: str) -> None:
    found = _validated(_file(tmp_path, "p.jsonl", line.encode()))
    [error] = found.errors
    assert error.message == "an object of 50,000 fields found; at most 1,000 wanted"


def test_of_many_mistakes_in_a_row_some_are_named(tmp_path: Path) -> None:
    found = _validated(_file(tmp_path, "p.jsonl", _object(MAX_FIELDS).encode()))
    assert len(found.errors) == found.invalid == MAX_ERRORS_OF_ROW


def test_what_was_meant_is_looked_for_in_some_rows_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def nearest(name: str, fields: dict[str, object]) -> str:
        asked.append(name)
        return aliases.nearest(name, fields)

    monkeypatch.setattr(validate, "nearest", nearest)
    found = _validated(_file(tmp_path, "p.jsonl", b'{"prompt":"a","promt":"b"}\n' * 5_000))
    assert (found.invalid_rows, len(asked)) == (5_000, 1_000)
    assert fields_errors(1, {"prompt": "a", "promt": "b"}, Row, hints=False)[0].message == "unknown field"


def test_after_many_invalid_rows_no_more_is_read(tmp_path: Path) -> None:
    path = _file(tmp_path, "p.jsonl", b"x\n" * 50_000)
    with pytest.raises(PromptSetError) as refused:
        _validated(path)
    assert refused.value.total == 10_001
    assert _validated(path, most_invalid=100_000).invalid_rows == 50_000  # as with --skip-invalid


def test_a_table_of_too_many_columns_is_counted_and_refused(tmp_path: Path) -> None:
    [error] = _validated(_file(tmp_path, "p.csv", b"prompt" + b",x" * 200_000 + b"\na\n")).errors
    assert error.message == "200,001 columns found; at most 1,000 wanted"


def test_a_row_over_endless_lines_of_a_table_takes_no_memory(tmp_path: Path) -> None:
    body = io.BytesIO(b"prompt,seed\n" + b'"x\n' + b"y\n" * MAX_LINE_BYTES)
    rows = formats.rows_in(io.BufferedReader(body), formats.InputFormat.CSV, "p.csv")
    _, error = next(rows)
    assert str(error) == "line 2: broken CSV: a row over more than 1,000 lines"
    assert body.tell() < 2 * MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loras", '"' + "a," * 100_000 + '"'),
        ("scheduler", '"Euler a' + " " * 100_000 + '"'),
        ("size", '"' + "1" * 99_999 + '"'),
    ],
)
def test_a_short_text_that_is_long_is_refused_by_its_length(tmp_path: Path, field: str, value: str) -> None:
    [error] = _validated(_file(tmp_path, "p.jsonl", f'{{"prompt":"a","{field}":{value}}}'.encode())).errors
    assert error.field == field
    assert "characters found; at most 10,000 wanted" in error.message


def test_brackets_without_end_are_said_to_be_that(tmp_path: Path) -> None:
    [error] = _validated(_file(tmp_path, "p.jsonl", b'{"metadata":' + b"[" * 400_000)).errors
    assert error.message == "broken JSON: brackets within brackets without end found; a flat object wanted"
