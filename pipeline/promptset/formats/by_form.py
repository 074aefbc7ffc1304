"""Rows out of a prompt set's bytes, by its form; what a row holds is judged elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from enum import StrEnum

from pipeline.promptset.formats.content import as_utf8
from pipeline.promptset.formats.jsonrows import json_rows
from pipeline.promptset.formats.lines import EmptyLines, Item, ReadOptions, lines_of
from pipeline.promptset.formats.tables import csv_rows
from pipeline.promptset.formats.texts import text_rows


class InputFormat(StrEnum):
    """How a prompt set is written."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TXT = "txt"
    XLSX = "xlsx"
    PARQUET = "parquet"


DEFAULT_OPTIONS = ReadOptions()


def rows_in(
    file: io.BufferedReader, kind: InputFormat, name: str, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[int, Item]]:
    """The rows of a prompt set, each with the number of its line.

    Raises RequestError for a file that is something else as a whole, and for empty lines without end.
    """
    if kind is InputFormat.XLSX:
        from pipeline.promptset.formats.spreadsheets import workbook_rows

        return workbook_rows(file, name, options)
    if kind is InputFormat.PARQUET:
        from pipeline.promptset.formats.spreadsheets import parquet_rows

        return parquet_rows(file, name, options)
    return _of_text(file, kind, name, options)


def _of_text(file: io.BufferedReader, kind: InputFormat, name: str, options: ReadOptions) -> Iterator[tuple[int, Item]]:
    text = as_utf8(file, name)
    if kind in (InputFormat.JSONL, InputFormat.JSON):
        yield from json_rows(text, name, lines=kind is InputFormat.JSONL)
    elif kind is InputFormat.CSV:
        yield from csv_rows(lines_of(text), EmptyLines(name), options)
    else:
        yield from text_rows(lines_of(text), EmptyLines(name), options)
