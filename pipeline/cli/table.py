"""A table of plain text on standard output, also of ten thousand rows: columns are padded, and no line is broken.

In a terminal that is too narrow, columns in which nothing stands are left out; elsewhere programs count on them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import typer


def print_table(*columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a line of titles and a line for each row."""
    lines = _lines([columns, *rows])
    if rows and sys.stdout.isatty() and max(map(len, lines)) > shutil.get_terminal_size().columns:
        filled = [any(cells) for cells in zip(*rows, strict=True)]
        lines = _lines(
            [[cell for cell, wanted in zip(line, filled, strict=True) if wanted] for line in (columns, *rows)]
        )
    for line in lines:
        typer.echo(line)


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
