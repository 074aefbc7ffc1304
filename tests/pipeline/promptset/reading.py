"""Read a prompt set from bytes, as far as rows with everything decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

PLAIN = ReadOptions()


def read(path: Path, body: bytes | str, options: ReadOptions = PLAIN) -> tuple[list[ResolvedRow], Validation]:
    """The rows of a file with this content and name, and what was found about it."""
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    source = open_source(path, options=options)
    found = Validation(source.name)
    rows = list(resolved_rows(source, Options(), deployment(max_megapixels=64.0), found, batch_seed=1))
    return rows, found


def said(found: Validation) -> tuple[list[str], list[str]]:
    """Errors and warnings as they are shown."""
    return [str(error) for error in found.errors], [str(warning) for warning in found.warnings]


def values(row: ResolvedRow, names: str) -> list[Any]:
    """Some of a row's values."""
    return [getattr(row, name) for name in names.split()]
