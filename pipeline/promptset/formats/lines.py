"""Lines of a text, numbered and bounded, and what a reader makes of them."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import RequestError, RowError, RowWarning
from pipeline.promptset.fields.row import Row

MAX_LINE_BYTES = 1_000_000
MAX_FIELDS = 1_000  # of an object, or columns of a table
MAX_EMPTY_LINES = 1 << 20  # as many as a spreadsheet has
LONE_RETURNS = "carriage returns without line feeds found; lines that end in LF or CRLF wanted"

Item = Mapping[str, Any] | Row | RowError | RowWarning
Line = tuple[int, str | RowError]


@dataclass(frozen=True)
class ReadOptions:
    """How a prompt set is read where its form leaves that open.

    Attributes:
        comments: lines of a text that begin with # are no prompts.
        extra_columns: where columns of a table go that are no fields; None: they are errors.
    """

    comments: bool = False
    extra_columns: Literal["metadata"] | None = None


class EmptyLines:
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


def lines_of(file: io.BufferedIOBase) -> Iterator[Line]:
    """The lines with their ends; one that is too long or no UTF-8 is an error."""
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
            hint = "; in Excel, save as CSV UTF-8" if line[error.start] >= 0x80 else ""
            yield number, RowError(number, None, f"not UTF-8 at byte {error.start + 1}{hint}")
