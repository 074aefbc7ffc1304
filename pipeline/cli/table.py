"""A table of plain text on standard output, also of ten thousand rows: columns are padded, and no line is broken.

In a terminal that is too narrow, columns in which nothing stands are left out, and then what stands at the end of a
line goes below it; elsewhere programs count on both. Nothing is cut: ids are copied from here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

_UNBOUNDED = 100_000


def print_table(*columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a line of titles and a line for each row."""
    lines = _lines([columns, *rows])
    room = shutil.get_terminal_size().columns
    if rows and sys.stdout.isatty() and _widest(lines) > room:
        filled = [any(cells) for cells in zip(*rows, strict=True)]
        cells = [[cell for cell, wanted in zip(line, filled, strict=True) if wanted] for line in (columns, *rows)]
        lines = _lines(cells)
        if _widest(lines) > room and sum(filled) > 1:
            lines = list(_with_the_last_below(cells))
    for line in lines:
        typer.echo(line)


def console() -> Console:
    """Where tables of words go: as wide as a terminal; elsewhere without a bound, so that nothing is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED)


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _widest(lines: Sequence[str]) -> int:
    return max(map(len, lines))


def _with_the_last_below(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    (*_, title), *rows = cells
    titles, *lines = _lines([line[:-1] for line in cells])
    yield titles
    for line, row in zip(lines, rows, strict=True):
        yield line
        if row[-1]:
            yield f"  {title}: {row[-1]}"
