"""Rows out of Excel workbooks (openpyxl) and Parquet files (pyarrow): libraries of the extra `tables`.

Both want to jump about in their file, so it is copied into a temporary one first. Rows stream out of it; what a small
file may swell to is bounded before it is read.
"""

from __future__ import annotations

import importlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import IO, Any

from pipeline.errors import RequestError, RowError, RowWarning
from pipeline.promptset.formats.cells import cell_text, plain_value
from pipeline.promptset.formats.columns import Columns, known_field
from pipeline.promptset.formats.content import PARQUET, ZIP
from pipeline.promptset.formats.lines import MAX_EMPTY_LINES, MAX_FIELDS, Item, ReadOptions

MAX_FILE_BYTES = 1 << 30
# A workbook's XML is a tenth or a twentieth of itself when it is packed; texts that cells share are held in memory.
MAX_RATIO, MAX_FREE_BYTES, MAX_SHARED_BYTES, MAX_ENTRIES = 200, 64 << 20, 256 << 20, 10_000
MAX_GROUP_BYTES = 1 << 30  # of one row group of Parquet, unpacked
_BATCH_ROWS = 1_000
# What openpyxl makes of a workbook that is broken inside.
_BROKEN = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    OSError,
    zipfile.BadZipFile,
)


def workbook_rows(file: io.BufferedReader, name: str, options: ReadOptions) -> Iterator[tuple[int, Item]]:
    """The rows of the one sheet that has a column `prompt`. Raises RequestError if that is none, or several."""
    if not file.peek(4).startswith(ZIP):
        raise RequestError(f"{name}: no Excel workbook (.xlsx) found")
    openpyxl: Any = _library("openpyxl", name)
    with _seekable(file, name) as local:
        _check_workbook(local, name)
        try:
            values = openpyxl.load_workbook(local, read_only=True, data_only=True)
            formulas = openpyxl.load_workbook(local, read_only=True) if _has_formulas(local) else None
            for book in (values, formulas) if formulas is not None else (values,):
                for sheet in book.worksheets:
                    sheet.reset_dimensions()  # what a file says of its size is often that of an earlier one
            sheet = _sheet(values, name)
            beside = formulas[sheet.title].iter_rows() if formulas is not None else itertools.repeat(())
            yield from _sheet_rows(sheet.iter_rows(values_only=True), beside, options)
        except _BROKEN as error:
            raise RequestError(f"{name}: a workbook that cannot be read ({type(error).__name__})") from error


def _sheet_rows(rows: Iterator[Any], beside: Iterator[Any], options: ReadOptions) -> Iterator[tuple[int, Item]]:
    columns: Columns | None = None
    empty = 0
    for number, (values, cells) in enumerate(zip(rows, beside, strict=False), 1):
        try:
            texts = [cell_text(value) for value in values[: MAX_FIELDS + 1]]
        except ValueError as error:
            yield number, RowError(number, None, str(error))
            continue
        while texts and not texts[-1].strip():
            texts.pop()
        if not texts and not any(_formula(cell) for cell in cells):
            empty += 1
            if empty > MAX_EMPTY_LINES:
                raise RequestError(f"more than {MAX_EMPTY_LINES:,} empty rows found")
        elif columns is None:
            columns = Columns(texts, options)
            yield from ((number, RowError(number, column, why)) for column, why in columns.wrong)
            if columns.wrong:
                return
        elif any(missing := [_formula(cell) and value is None for cell, value in zip(cells, values, strict=False)]):
            why = "has a formula without a value; open it in a spreadsheet program and save it"
            yield number, RowError(number, None, f"column {missing.index(True) + 1} {why}")
        else:
            yield from ((number, item) for item in columns.row(number, texts))


def _formula(cell: Any) -> bool:
    return getattr(cell, "data_type", None) == "f"


def _sheet(book: Any, name: str) -> Any:
    """The sheet whose first row names a prompt."""
    with_prompts = []
    for sheet in book.worksheets:
        header = next((row for row in sheet.iter_rows(max_row=10, values_only=True) if any(row)), ())
        if any(known_field(str(cell)) == "prompt" for cell in header):
            with_prompts.append(sheet)
    if len(with_prompts) == 1:
        return with_prompts[0]
    names = ", ".join(ascii(sheet.title)[:40] for sheet in with_prompts[:5] or book.worksheets[:5])
    found = "several sheets" if with_prompts else "no sheet"
    raise RequestError(f"{name}: {found} with a column `prompt` found ({names}); one wanted")


def _check_workbook(local: IO[bytes], name: str) -> None:
    try:
        with zipfile.ZipFile(local) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise RequestError(f"{name}: a broken zip archive found; a workbook (.xlsx) wanted") from error
    names = {entry.filename for entry in entries}
    if "xl/workbook.xml" not in names:
        what = "a document of Word" if "word/document.xml" in names else "a zip archive"
        raise RequestError(f"{name}: {what} found; a workbook (.xlsx) wanted")
    packed, content = sum(entry.compress_size for entry in entries), sum(entry.file_size for entry in entries)
    shared = sum(entry.file_size for entry in entries if not entry.filename.startswith("xl/worksheets/"))
    if len(entries) > MAX_ENTRIES or content > MAX_FREE_BYTES + MAX_RATIO * packed or shared > MAX_SHARED_BYTES:
        raise RequestError(
            f"{name}: a workbook of {len(entries):,} parts with {content:,} bytes in {packed:,} compressed ones found; "
            "that is more than a prompt set has. Save it as CSV"
        )


def _has_formulas(local: IO[bytes]) -> bool:
    with zipfile.ZipFile(local) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith("xl/worksheets/"):
                with archive.open(entry) as sheet:
                    before = b""
                    while chunk := sheet.read(1 << 20):
                        if b"<f>" in before + chunk or b"<f " in before + chunk:
                            return True
                        before = chunk[-3:]
    return False


def parquet_rows(file: io.BufferedReader, name: str, options: ReadOptions) -> Iterator[tuple[int, Item]]:
    """The rows of a Parquet file; null and NaN are what is not said. Raises RequestError if it is none."""
    if not file.peek(4).startswith(PARQUET):
        raise RequestError(f"{name}: no Parquet file found")
    pyarrow: Any = _library("pyarrow", name)
    parquet: Any = _library("pyarrow.parquet", name)
    with _seekable(file, name) as local:
        try:
            table = parquet.ParquetFile(local, memory_map=False)
            groups = [table.metadata.row_group(at) for at in range(table.num_row_groups)]
            if any(group.total_byte_size > MAX_GROUP_BYTES for group in groups):
                raise RequestError(
                    f"{name}: a row group of more than {MAX_GROUP_BYTES >> 30} GiB found; smaller ones wanted"
                )
            names = table.schema_arrow.names
            columns = Columns(names, options)
            if columns.wrong or len(names) > MAX_FIELDS:
                yield from ((1, RowError(1, column, why)) for column, why in columns.wrong)
                if not columns.wrong:
                    yield 1, RowError(1, None, f"{len(names):,} columns found; at most {MAX_FIELDS:,} wanted")
                return
            number = 0
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield from ((number, item) for item in _parquet_row(number, values, columns))
        except (pyarrow.ArrowException, OSError) as error:
            raise RequestError(f"{name}: a Parquet file that cannot be read ({type(error).__name__})") from error


def _parquet_row(number: int, values: dict[str, Any], columns: Columns) -> Iterator[Item]:
    said, texts = list[Any](), list[str]()
    for name, value in values.items():
        try:
            said.append(plain_value(value))
            texts.append("" if isinstance(said[-1], list | dict) else cell_text(said[-1]))
        except ValueError as error:
            yield RowError(number, name[:80], str(error))
            return
    for item in columns.row(number, texts):
        if isinstance(item, RowError | RowWarning):
            yield item
            continue
        # Lists and structures (loras, metadata) are what they are in JSON.
        row: dict[str, Any] = dict(item)
        of_columns = row.get("metadata")
        row |= {
            name: value for name, value in zip(values, said, strict=True) if isinstance(value, list | dict) and value
        }
        if isinstance(of_columns, dict) and isinstance(row["metadata"], dict):
            row["metadata"] = of_columns | row["metadata"]
        yield row


def _seekable(file: io.BufferedReader, name: str) -> IO[bytes]:
    local = TemporaryFile()  # noqa: SIM115  # whoever asks for it closes it
    while chunk := file.read(1 << 20):
        local.write(chunk)
        if local.tell() > MAX_FILE_BYTES:
            raise RequestError(f"{name}: more than {MAX_FILE_BYTES >> 30} GiB found; JSON Lines wanted for so much")
    local.seek(0)
    return local


def _library(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"{name}: {module.partition('.')[0]} is not installed, which reads such files: "
            "pip install 'tessera-render[tables]', or save it as CSV"
        ) from error
