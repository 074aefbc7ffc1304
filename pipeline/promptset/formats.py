"""Rows out of JSON Lines, CSV and plain text: bytes to objects, line by line; what a line holds is judged elsewhere."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, get_args

from pipeline.errors import RequestError, RowError, RowWarning
from pipeline.promptset.aliases import ALIASES, SCHEDULES, nearest
from pipeline.promptset.kinds import plain_type
from pipeline.promptset.row import Row, Text

MAX_LINE_BYTES = 1_000_000
MAX_FIELDS = 1_000  # of an object, or columns of a table
MAX_EMPTY_LINES = 1 << 20  # as many as a spreadsheet has lines
_LONE_RETURNS = "carriage returns without line feeds found; lines that end in LF or CRLF wanted"

Item = Mapping[str, Any] | Row | RowError | RowWarning


class InputFormat(StrEnum):
    """How a prompt set is written."""

    JSONL = "jsonl"
    CSV = "csv"
    TXT = "txt"


def rows_in(file: io.BufferedIOBase, kind: InputFormat, name: str) -> Iterator[tuple[int, Item]]:
    """The rows of a prompt set, each with the number of its line. Raises RequestError for empty lines without end."""
    lines, empty = _lines(file), _EmptyLines(name)
    if kind is InputFormat.CSV:
        return _csv(lines, empty)
    return _each(lines, _json_row if kind is InputFormat.JSONL else _text_row, empty)


class _EmptyLines:
    """Counts the lines that hold no row."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def add(self) -> bool:
        """Count one; False. Raises RequestError if it is one too many."""
        self.count += 1
        if self.count > MAX_EMPTY_LINES:
            raise RequestError(
                f"{self.name}: more than {MAX_EMPTY_LINES:,} lines without a row found; a prompt set without them "
                "wanted"
            )
        return False


def _lines(file: io.BufferedIOBase) -> Iterator[tuple[int, str | RowError]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        line = line.removeprefix(codecs.BOM_UTF8)  # of the file, or of one that was put behind another
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield number, RowError(number, None, f"longer than {MAX_LINE_BYTES:,} bytes")
            continue
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            yield number, RowError(number, None, f"not UTF-8 at byte {error.start + 1}")


def _each(lines: Iterator[tuple[int, str | RowError]], row: Any, empty: _EmptyLines) -> Iterator[tuple[int, Item]]:
    for number, line in lines:
        if isinstance(line, RowError):
            yield number, line
        elif line.strip():
            yield number, row(number, line)
        else:
            empty.add()


def _text_row(number: int, line: str) -> Item:
    prompt = line.strip()
    return {"prompt": prompt} if "\r" not in prompt else RowError(number, None, _LONE_RETURNS)


def _json_row(number: int, line: str) -> Item:
    try:
        value = _STRICT.decode(line.rstrip())
    except json.JSONDecodeError as error:
        return RowError(number, None, f"broken JSON at column {error.colno}: {error.msg}")
    except _TooMuch as error:
        return RowError(number, None, str(error))
    except RecursionError:
        return RowError(number, None, _TOO_DEEP)
    except ValueError as error:
        return RowError(number, None, f"broken JSON: {error}")
    if not isinstance(value, dict):
        return RowError(number, None, f"{type(value).__name__} found; a JSON object wanted")
    return value


_TOO_DEEP = "broken JSON: brackets within brackets without end found; a flat object wanted"


class _TooMuch(ValueError):
    """An object that is none of ours, however well it is written."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        raise _TooMuch(f"an object of {len(pairs):,} fields found; at most {MAX_FIELDS:,} wanted")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{ascii(twice)[:80]} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_each_once)  # one for all rows


# How a cell becomes a value. Prompts and names stay as they stand; what else is a text loses the blanks around it.
_TYPES = {name: plain_type(field) for name, field in Row.model_fields.items()}
_TEXTS_OR_NULL = {name for name, field in Row.model_fields.items() if Text in get_args(field.annotation)}
_AS_THEY_STAND = {"prompt", "custom_id"}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_INTEGER = re.compile(r"-?[0-9]{1,20}(\.0)?")
EMPTY_TEXT, NULL = '""', "null"
_DELIMITERS = ",;\t"


def _csv(lines: Iterator[tuple[int, str | RowError]], empty: _EmptyLines) -> Iterator[tuple[int, Item]]:
    first = next((one for one in lines if isinstance(one[1], RowError) or one[1].strip() or empty.add()), None)
    if first is None:
        return
    number, header = first
    if isinstance(header, RowError):
        yield number, header
        return
    delimiter = max(_DELIMITERS, key=header.count)
    if (columns_found := header.count(delimiter) + 1) > MAX_FIELDS:
        yield number, RowError(number, None, f"{columns_found:,} columns found; at most {MAX_FIELDS:,} wanted")
        return
    try:
        columns = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error as broken:
        why = _LONE_RETURNS if "\r" in header.strip() else f"broken CSV: {broken}"
        yield number, RowError(number, None, why)
        return
    wrong = [error for name in columns if name and (error := _wrong_column(number, name, columns))]
    if wrong:
        yield from ((number, error) for error in dict.fromkeys(wrong))
        return
    feed = _Feed(lines, number)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        start = feed.begin_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield feed.number, feed.refused or RowError(start, None, f"broken CSV: {error}; nothing after it was read")
            if feed.refused is None:
                # Where the next row begins is not known: one quote too many swallows the rest.
                return
            feed.refused = None
            reader = csv.reader(feed, delimiter=delimiter, strict=True)
            continue
        if any(cell.strip() for cell in cells):
            yield start, _csv_row(start, columns, cells)
        else:
            empty.add()


class _Feed:
    """Lines for the reader of CSV, which remembers where it is; a line that is none ends the row that it is part of."""

    def __init__(self, lines: Iterator[tuple[int, str | RowError]], number: int) -> None:
        self._lines = lines
        self.number = number
        self.refused: RowError | None = None
        self._characters = 0

    def begin_record(self) -> int:
        """The number of the line at which a record begins now."""
        self._characters = 0
        return self.number + 1

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if isinstance(line, RowError):
            self.refused = line
            raise csv.Error(line.message)
        self._characters += len(line)
        if self._characters > MAX_LINE_BYTES:
            raise csv.Error(f"a row of more than {MAX_LINE_BYTES:,} characters, over several lines")
        return line


def _wrong_column(number: int, name: str, columns: list[str]) -> RowError | None:
    known = Row.model_fields
    if columns.count(name) > 1:
        return RowError(number, name[:80], "there are two columns of this name")
    if name in known or name in ALIASES or name in SCHEDULES or (name.startswith("metadata.") and name != "metadata."):
        return None
    return RowError(number, name[:80], f"unknown column; {nearest(name, known)}")


def _csv_row(number: int, columns: list[str], cells: list[str]) -> Item:
    if len(cells) > len(columns):
        return RowError(number, None, f"{len(cells)} cells found; the header has {len(columns)} columns")
    row: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for place, (column, cell) in enumerate(zip(columns, cells, strict=False), 1):
        if not cell.strip():
            continue
        if not column:
            return RowError(number, None, f"column {place} has a cell and no name in the header")
        if column.startswith("metadata."):
            metadata[column.removeprefix("metadata.")] = cell
        else:
            row[column] = _value(ALIASES.get(column, column), cell)
    if metadata and isinstance(row.setdefault("metadata", {}), dict):
        row["metadata"] = row["metadata"] | metadata
    return row


def _value(field: str, cell: str) -> Any:
    """The cell's value; one that is none of its kind stays a text, for the field to refuse it."""
    bare, kind = cell.strip(), _TYPES.get(field)
    if field in _TEXTS_OR_NULL:
        return {EMPTY_TEXT: "", NULL: None}.get(bare, cell)
    if kind is int and _INTEGER.fullmatch(bare):
        return int(bare.removesuffix(".0"))  # tables that had a gap in the column write 7 as 7.0
    if kind is float and "_" not in bare:
        try:
            return float(bare)
        except ValueError:
            return cell
    if kind is bool:
        return _TRUTHS.get(bare.lower(), cell)
    if field == "metadata":
        try:
            return _STRICT.decode(bare)
        except (ValueError, RecursionError):
            return cell
    return cell if field in _AS_THEY_STAND else bare
