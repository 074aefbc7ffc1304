"""Rows out of CSV: columns under our names, cells by the kinds of their fields.

A bad quote costs one row. A record that is broken, or that swallowed lines which are rows themselves, is refused as the
line that it begins with, and reading goes on with the line behind that.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import RequestError, RowError, RowWarning
from pipeline.promptset.formats.columns import Columns
from pipeline.promptset.formats.lines import (
    LONE_RETURNS,
    MAX_FIELDS,
    MAX_LINE_BYTES,
    EmptyLines,
    Item,
    Line,
    ReadOptions,
)

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line
MAX_LINES_OF_RECORD = 1_000
MAX_LINES_AGAIN = 5_000_000  # that are read once more behind bad quotes
_NO_HEADER = (
    "none of the first line's columns is a field. A first line of names wanted, as prompt,steps; for prompts alone, a "
    "name that ends in .txt; --comments leaves lines with # before it out"
)
_OPEN = "a quote is opened and not closed in this line"


def csv_rows(lines: Iterator[Line], empty: EmptyLines, options: ReadOptions) -> Iterator[tuple[int, Item]]:
    """The rows of a table. The delimiter is seen in the header, or said in a line `sep=;` before it.

    Under `comments`, lines with # before the header are none of it.
    """
    number, header, delimiter = _header(lines, empty, options)
    if header is None:
        return
    names: list[str] = []
    wrong = header if isinstance(header, RowError) else None
    if wrong is None and (found := str(header).count(delimiter) + 1) > MAX_FIELDS:
        wrong = RowError(number, None, f"{found:,} columns found; at most {MAX_FIELDS:,} wanted")
    try:
        names = next(csv.reader([str(header)], delimiter=delimiter, skipinitialspace=True), []) if wrong is None else []
    except csv.Error as broken:
        why = LONE_RETURNS if "\r" in str(header).strip() else f"broken CSV: {broken}"
        wrong = RowError(number, None, why)
    if wrong is not None:
        yield number, wrong
        return
    columns = Columns(names, options, decimal_comma=delimiter != ",")
    if not columns.any_known:
        yield number, RowError(number, None, f"no header found: {_NO_HEADER}")
        return
    if columns.wrong:
        yield from ((number, RowError(number, name, why)) for name, why in columns.wrong)
        return
    for number, cells in _Records(lines, delimiter, len(names), columns.hold):
        if isinstance(cells, RowError):
            yield number, cells
        elif not any(cell.strip() for cell in cells):
            empty.add()
        elif cells == names:
            yield number, RowWarning(number, None, "the header once more, which is left out")
        else:
            for item in columns.row(number, cells):
                yield number, item


def _header(lines: Iterator[Line], empty: EmptyLines, options: ReadOptions) -> tuple[int, str | RowError | None, str]:
    """The first line that holds something, and the delimiter; a line `sep=;` before it says the latter."""
    separator = None
    for number, line in lines:
        if isinstance(line, RowError):
            return number, line, ","
        if found := _SEPARATOR.fullmatch(line):
            separator = found[1]
        elif options.comments and line.lstrip().startswith("#"):
            empty.add()
        elif line.strip():
            return number, line, separator or max(_DELIMITERS, key=line.count)
        else:
            empty.add()
    return 0, None, ","


class _Records:
    """The records of a table, each with the line it begins with.

    Args:
        lines: behind the header.
        delimiter: one sign.
        width: columns of the header.
        hold: whether cells are values of their columns, of which at least one is more than a text.
    """

    def __init__(
        self, lines: Iterator[Line], delimiter: str, width: int, hold: Callable[[Sequence[str]], bool]
    ) -> None:
        self._lines, self._delimiter, self._width, self._hold = lines, delimiter, width, hold
        self._blank_then_quote = re.compile(rf'(?:^|{re.escape(delimiter)}) +"')
        self._again: deque[Line] = deque()
        self._read_again = 0

    def __iter__(self) -> Iterator[tuple[int, list[str] | RowError]]:
        while (one := self._next()) is not None:
            number, line = one
            if isinstance(line, RowError):
                yield number, line
            elif '"' not in line:
                bare = line.rstrip("\r\n")
                yield number, RowError(number, None, LONE_RETURNS) if "\r" in bare else bare.split(self._delimiter)
            else:
                yield number, self._quoted(number, line)

    def _next(self) -> Line | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _quoted(self, number: int, first: str) -> list[str] | RowError:
        if self._blank_then_quote.search(first):
            cells = self._parsed(number, first, skipinitialspace=True)
            if not isinstance(cells, RowError):
                return cells
        return self._parsed(number, first)  # a cell may be a text in which something stands in quotes

    def _parsed(self, number: int, first: str, *, skipinitialspace: bool = False) -> list[str] | RowError:
        gathered: list[Line] = []

        def feed() -> Iterator[str]:
            yield first
            size = len(first)
            while (one := self._next()) is not None:
                gathered.append(one)
                if isinstance(one[1], RowError):
                    raise csv.Error(_OPEN)
                size += len(one[1])
                if size > MAX_LINE_BYTES:
                    raise csv.Error(f"a row of more than {MAX_LINE_BYTES:,} characters, over several lines")
                if len(gathered) >= MAX_LINES_OF_RECORD:
                    raise csv.Error(f"a row over more than {MAX_LINES_OF_RECORD:,} lines")
                yield one[1]

        try:
            cells = next(csv.reader(feed(), delimiter=self._delimiter, strict=True, skipinitialspace=skipinitialspace))
        except csv.Error as error:
            runs_on = "unexpected end" in str(error) or (gathered and "expected after" in str(error))
            why = _OPEN if runs_on else str(error)
        else:
            if not gathered or not all(self._is_row(line) for line in (first, *(str(line) for _, line in gathered))):
                return cells
            why = _OPEN
        self._read_again += len(gathered)
        if self._read_again > MAX_LINES_AGAIN:
            raise RequestError(f"line {number}: too many quotes that are opened and not closed; a mended table wanted")
        self._again.extendleft(reversed(gathered))
        literal = first.rstrip("\r\n").split(self._delimiter)
        if self._delimiter == "\t" and len(literal) == self._width:
            return literal  # no prose has tabs, so its quotes are signs like any other
        return RowError(number, None, f"broken CSV: {why}")

    def _is_row(self, line: str) -> bool:
        """Whether a line is a row if its quotes are signs like any other."""
        cells = line.rstrip("\r\n").split(self._delimiter)
        return len(cells) == self._width > 1 and self._hold([cell.strip('" ') for cell in cells])
