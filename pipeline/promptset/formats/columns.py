"""Columns of a table under our names, and cells as values of their fields; CSV and spreadsheets share them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pipeline.errors import RowError, RowWarning
from pipeline.promptset.fields.kinds import plain_type
from pipeline.promptset.fields.row import Row
from pipeline.promptset.fields.values import Text
from pipeline.promptset.formats.cells import INTEGER, of_kind, two_numbers
from pipeline.promptset.formats.foreign import FOREIGN, RENAMED
from pipeline.promptset.formats.jsonrows import STRICT
from pipeline.promptset.formats.lines import Item, ReadOptions
from pipeline.promptset.names.aliases import ALIASES, SCHEDULES, nearest

# How a cell becomes a value. Prompts and names stay as they stand; what else is a text loses the blanks around it.
_TYPES = {name: plain_type(field) for name, field in Row.model_fields.items()}
_TEXTS_OR_NULL = {name for name, field in Row.model_fields.items() if Text in get_args(field.annotation)}
_AS_THEY_STAND = {"prompt", "custom_id"}
_PROMPTS = {"prompt", *(name for name, field in RENAMED.items() if field == "prompt")}
EMPTY_TEXT, NULL = '""', "null"
_MISSING = frozenset({"nan", "<na>", "nat"})  # of pandas, where nothing is
_ERRORS = frozenset({"#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!"})  # of spreadsheets
_INDEX = frozenset({"", "Unnamed: 0"})  # pandas' own numbers of rows
_SINGLE_QUOTES = re.compile("'[^']+'")
_INDEX_OF_PARQUET = re.compile(r"__index_level_[0-9]+__")  # the same, behind the columns
_BY_FOLDED = {name.lower(): name for name in (*Row.model_fields, *ALIASES, *SCHEDULES, *FOREIGN)}


class Columns:
    """The header of a table, understood.

    Attributes:
        wrong: columns that are no fields, and why.
        any_known: whether one at least is a field.

    Args:
        names: as the header has them.
        options: what becomes of those that are no fields.
        decimal_comma: a comma in a number is its decimal point.
    """

    def __init__(self, names: Sequence[str], options: ReadOptions, *, decimal_comma: bool = False) -> None:
        shown = [name.strip() for name in names]
        self._index = bool(shown) and shown[0] in _INDEX and len(shown) > 1
        known = [_known(name) for name in shown]
        self._passed_over = {place for place, name in enumerate(shown, 1) if _INDEX_OF_PARQUET.fullmatch(name)}
        self._names = [
            f"metadata.{name}"
            if options.extra_columns and name and field is None and not name.startswith("metadata.")
            else field or name
            for name, field in zip(shown, known, strict=True)
        ]
        if self._index:
            self._names[0] = ""
        for place in self._passed_over:
            self._names[place - 1] = ""
        self.any_known = any(field is not None for field in known)
        self._decimal_comma = decimal_comma
        self.wrong = list(
            dict.fromkeys(
                (shown[place][:80], why) for place, name in enumerate(self._names) if (why := self._why(name))
            )
        )

    def _why(self, name: str) -> str | None:
        if not name:
            return None
        if self._names.count(name) > 1:
            return "there are two columns of this name"
        if _known(name) is not None or (name.startswith("metadata.") and name != "metadata."):
            return None
        keep = "to keep such columns with the results, as metadata, say --extra-columns metadata"
        hint = nearest(name, Row.model_fields)
        return f"unknown column; {hint}" + ("" if hint.endswith("?") else ";") + f" {keep}"

    def row(self, number: int, cells: Sequence[str]) -> Iterator[Item]:
        """The row of a line, behind what is to be said of it."""
        if len(cells) > len(self._names):
            yield RowError(number, None, f"{len(cells)} cells found; the header has {len(self._names)} columns")
            return
        row: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        for place, (column, cell) in enumerate(zip(self._names, cells, strict=False), 1):
            bare = cell.strip()
            if not bare or place in self._passed_over:
                continue
            if not column:
                if place == 1 and self._index and INTEGER.fullmatch(bare):
                    yield RowWarning(number, None, "a first column without a name and with numbers is left out")
                    continue
                yield RowError(number, None, f"column {place} has a cell and no name in the header")
                return
            if (wrong := _wrong(number, column, bare)) is not None:
                yield wrong
                return
            if bare[0] in "nN<" and bare.lower() in _MISSING:
                yield RowWarning(number, column, "NaN, which pandas writes where nothing is, is read as nothing")
            elif column.startswith("metadata."):
                metadata[column.removeprefix("metadata.")] = cell
            else:
                if column in _PROMPTS and _SINGLE_QUOTES.fullmatch(bare):
                    yield RowWarning(number, column, "it is in single quotes, which are part of its prompt")
                row[column] = self._value(ALIASES.get(column, column), cell)
        if metadata and isinstance(row.setdefault("metadata", {}), dict):
            row["metadata"] = row["metadata"] | metadata
        yield row

    def hold(self, cells: Sequence[str]) -> bool:
        """Whether cells are values of their columns, at least one of which is more than a text."""
        typed = False
        for column, cell in zip(self._names, cells, strict=True):
            kind = _TYPES.get(ALIASES.get(column, column))
            if kind not in (int, float, bool) or not cell.strip():
                continue
            typed = True
            if not isinstance(self._value(ALIASES.get(column, column), cell), int | float):
                return False
        return typed

    def _value(self, field: str, cell: str) -> Any:
        """The cell's value; one that is none of its kind stays a text, for the field to refuse it."""
        bare, kind = cell.strip(), _TYPES.get(field)
        if field in _TEXTS_OR_NULL:
            return {EMPTY_TEXT: "", NULL: None}.get(bare, cell)
        if field in _AS_THEY_STAND:
            return cell
        if bare.lower() == NULL:
            return None
        if kind in (int, float, bool):
            value = of_kind(kind, bare, decimal_comma=self._decimal_comma)
            return cell if isinstance(value, str) else value
        if field == "metadata" or (field in FOREIGN and bare[:1] in ("{", "[")):
            try:
                return STRICT.decode(bare)
            except (ValueError, RecursionError):
                return cell
        if field in FOREIGN:
            return foreign_value(bare)
        return bare


def _wrong(number: int, column: str, bare: str) -> RowError | None:
    """What a cell holds that is no value of any field, or may be two."""
    if bare[0] == "#" and bare in _ERRORS and not column.startswith("metadata."):
        return RowError(number, column, f"{bare} found, an error of the spreadsheet; a value wanted")
    if column == "prompt" and bare.lower() in _MISSING:
        return RowError(number, column, "NaN found, which pandas writes where nothing is; a text wanted")
    if both := two_numbers(_TYPES.get(ALIASES.get(column, column)), bare):
        return RowError(number, column, f"{bare} found, which is {' or '.join(both)}; a plain number wanted")
    return None


def foreign_value(bare: str) -> Any:
    """The value of a cell of another tool's column: a number, true or false, or the text."""
    if bare.lower() in ("true", "false"):
        return bare.lower() == "true"
    try:
        return int(bare) if INTEGER.fullmatch(bare) and bare.isascii() and bare.lstrip("-").isdigit() else float(bare)
    except ValueError:
        return bare


def known_field(name: str) -> str | None:
    """The field that a column of this name fills, also under a name of other tools; None if it is none."""
    found = _known(name)
    return None if found is None else RENAMED.get(found, ALIASES.get(found, found))


def _known(name: str) -> str | None:
    """The field or other name that a column's name is, whatever its case and its blanks; None if it is none."""
    if name in Row.model_fields or name in ALIASES or name in SCHEDULES or name in FOREIGN:
        return name
    return _BY_FOLDED.get(re.sub(r"[\s-]+", "_", name.strip().lower()))
