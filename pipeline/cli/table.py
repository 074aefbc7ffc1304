"""A table of plain text on standard output, also of ten thousand rows: columns are padded, and no line is broken."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def print_table(*columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a line of titles and a line for each row."""
    lines = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
