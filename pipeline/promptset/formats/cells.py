"""Cells of tables: their texts as numbers, and values of workbooks and Parquet as texts and as values of JSON."""

from __future__ import annotations

import datetime
import math
import re
import uuid
from decimal import Decimal
from typing import Any

INTEGER = re.compile(r"-?[0-9]{1,20}([.,]0{1,6})?")
_TWO_NUMBERS = re.compile(r"-?[1-9][0-9]{0,2}[.,]000")  # 12, or 12 thousand
_DECIMAL_COMMA = re.compile(r"-?[0-9]{1,20},[0-9]{1,20}")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def of_kind(kind: type | None, text: str, *, decimal_comma: bool = False) -> Any:
    """The number or truth that a text says; the text if it says none, or is of another kind.

    Args:
        kind: int, float or bool; any other has no form of its own.
        text: without blanks around it.
        decimal_comma: a comma in a number is its decimal point.
    """
    if kind is int and INTEGER.fullmatch(text) and ("," not in text or decimal_comma):
        return int(re.split("[.,]", text)[0])  # tables that had a gap in the column write 7 as 7.0
    if kind is float and "_" not in text:
        if decimal_comma and _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        try:
            return float(text)
        except ValueError:
            return text
    if kind is bool:
        return _TRUTHS.get(text.lower(), text)
    return text


def two_numbers(kind: type | None, text: str) -> tuple[str, str] | None:
    """Both whole numbers that a text may mean, by where its writer has the decimal point; None if it is one."""
    if kind is not int or not _TWO_NUMBERS.fullmatch(text):
        return None
    return re.split("[.,]", text)[0], re.sub("[.,]", "", text)


def cell_text(value: object) -> str:
    """The text of a plain value; none for what is not said. Raises ValueError if it is of a kind that has no text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return _hours(value)
    if isinstance(value, datetime.time):
        # A spreadsheet takes the aspect 16:9 for a time.
        return value.isoformat("auto" if value.second or value.microsecond else "minutes")
    if isinstance(value, str | int | float | Decimal | uuid.UUID):
        return str(value)
    raise ValueError(f"a value of the kind {type(value).__name__} found; a text or a number wanted")


def plain_value(value: object) -> Any:
    """A value of Parquet as JSON has it: no NaN, texts for bytes, an object for a map. Raises ValueError for others."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {str(name): plain_value(one) for name, one in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(one, tuple) for one in value):  # entries of a map
            return plain_value(dict(value))
        return [plain_value(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return cell_text(value)


def _decoded(value: bytes) -> str:
    """A column of texts that is not marked as one, as older writers leave it."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError("bytes that are no UTF-8 found; a text wanted") from error


def _hours(value: datetime.timedelta) -> str:
    minutes, seconds = divmod(round(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}" + (f":{seconds:02}" if seconds else "")
