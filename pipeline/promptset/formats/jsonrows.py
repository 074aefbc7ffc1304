"""Rows as JSON: an object a line, or an array of objects or prompts, which is read element by element."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import Any

from pipeline.errors import RequestError, RowError
from pipeline.promptset.fields.row import Row
from pipeline.promptset.formats.lines import MAX_FIELDS, MAX_LINE_BYTES, EmptyLines, Item, lines_of
from pipeline.promptset.names.aliases import ALIASES

_CHUNK_BYTES = 1 << 16
_TOO_DEEP = "broken JSON: brackets within brackets without end found; a flat object wanted"
_BLANKS = " \t\r\n"
_FIELDS = frozenset({*Row.model_fields, *ALIASES})
_LISTED = 5  # names of fields that a message shows


class _TooMuch(ValueError):
    """An object that is none of ours, however well it is written."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        raise _TooMuch(f"an object of {len(pairs):,} fields found; at most {MAX_FIELDS:,} wanted")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{ascii(twice)[:80]} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_each_once)  # one for all rows


def json_line(number: int, line: str) -> Item:
    """The row of one line."""
    try:
        value = STRICT.decode(line.rstrip())
    except json.JSONDecodeError as error:
        return RowError(
            number, None, f"broken JSON at column {error.colno}: {error.msg}{_hint(line.strip(), error.pos)}"
        )
    except _TooMuch as error:
        return RowError(number, None, str(error))
    except RecursionError:
        return RowError(number, None, _TOO_DEEP)
    except ValueError as error:
        return RowError(number, None, f"broken JSON: {error}")
    if not isinstance(value, dict):
        return RowError(number, None, f"{type(value).__name__} found; a JSON object wanted")
    return value


def _hint(line: str, at: int) -> str:
    if line in ("{", "["):
        return "; an object a line wanted"
    if line[at - 1 : at] == "}" or line[at : at + 1] in ("{", ","):
        return {",": "; no comma wanted between lines", "{": "; an object a line wanted"}.get(line[at : at + 1], "")
    return ""


def json_rows(file: io.BufferedReader, name: str, *, lines: bool) -> Iterator[tuple[int, Item]]:
    """The rows of a JSON text: of an array if it begins with one, else of its lines or its one object.

    Rows of an array are numbered by their place. Raises RequestError for an object that holds the rows, and for an
    array that is broken: where the next row begins is not known then.
    """
    begin = file.peek(_CHUNK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"["):
        return _array(file, name)
    if lines or not begin.startswith(b"{"):
        return _lines(file, name)
    return _object(file, name)


def _lines(file: io.BufferedReader, name: str) -> Iterator[tuple[int, Item]]:
    empty = EmptyLines(name)
    for number, line in lines_of(file):
        if isinstance(line, RowError):
            yield number, line
        elif line.strip():
            yield number, json_line(number, line)
        else:
            empty.add()


def _array(file: io.BufferedReader, name: str) -> Iterator[tuple[int, Item]]:
    text = _Text(file, name)
    text.skip("[")
    number = 0
    while not text.take("]"):
        number += 1
        if number > 1 and not text.take(","):
            raise RequestError(f"{name}: broken JSON behind element {number - 1}: a comma or ] wanted")
        value = text.value(number)
        if isinstance(value, str):
            yield number, {"prompt": value}
        elif isinstance(value, dict | RowError):
            yield number, value
        else:
            yield number, RowError(number, None, f"{type(value).__name__} found; a JSON object or a prompt wanted")
    if text.rest():
        raise RequestError(f"{name}: something behind the end of the array found; one array wanted")


def _object(file: io.BufferedReader, name: str) -> Iterator[tuple[int, Item]]:
    """A .json that begins with an object: one row, JSON Lines under another name, or an object that holds the rows."""
    text, number = _Text(file, name), 0
    while number == 0 or text.rest():
        number += 1
        value = text.value(number)
        if isinstance(value, dict):
            if wrong := _no_row(value):
                raise RequestError(f"{name}: {wrong}")
            lists = [key for key, one in value.items() if isinstance(one, list) and one and _is_row(one[0])]
            if len(lists) == 1 and not {"prompt", "body"} & value.keys():
                shown = ascii(lists[0])[:60]
                raise RequestError(
                    f"{name}: an object found that has its rows under {shown}; the array itself wanted, as from "
                    f"jq .[{shown.replace(chr(39), chr(34))}]"
                )
            if "nodes" in value or any(isinstance(one, dict) and "class_type" in one for one in value.values()):
                raise RequestError(f"{name}: a graph of ComfyUI found; rows wanted, as tessera extract makes of images")
        yield number, value if isinstance(value, dict | RowError) else RowError(number, None, "a JSON object wanted")


def _no_row(value: dict[str, Any]) -> str | None:
    """What an object is that is none of rows, where that is known."""
    if "nbformat" in value:
        return "a notebook found; rows wanted, as an array or JSON Lines"
    if {"columns", "data"} <= value.keys() or isinstance(value.get("prompt"), list | dict):
        return 'columns found, as pandas writes them; rows wanted, as from to_json(orient="records", lines=True)'
    if len(value) > 1 and "prompt" not in value and not value.keys() & _FIELDS and all(map(_is_text, value.values())):
        return "an object of texts by name found; an array of prompts, or of objects with custom_id and prompt, wanted"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_row(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and bool({"prompt", "body"} & value.keys()))


class _Text:
    """JSON text, read as far as values need it. Raises RequestError where it breaks off or is broken."""

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False

    def _more(self) -> bool:
        if self._ended:
            return False
        chunk = self._file.read1(_CHUNK_BYTES)
        self._ended = not chunk
        try:
            self._text = self._text[self._at :] + self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            raise RequestError(f"{self._name}: not UTF-8 ({error.reason})") from error
        self._at = 0
        return True

    def rest(self) -> bool:
        """Whether something follows that is no blank."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANKS:
                self._at += 1
            if self._at < len(self._text):
                return True
            if not self._more():
                return False

    def take(self, sign: str) -> bool:
        """Whether this sign follows, which is passed over then."""
        if not self.rest():
            raise RequestError(f"{self._name}: broken JSON: it breaks off")
        if self._text[self._at] != sign:
            return False
        self._at += 1
        return True

    def skip(self, sign: str) -> None:
        """Pass over a sign that is known to follow."""
        self.take(sign)

    def value(self, number: int) -> Any:
        """The next value, or an error if it is broken inside and its end is known."""
        if not self.rest():
            raise RequestError(f"{self._name}: broken JSON: it breaks off behind element {number - 1}")
        wrong = ""
        while True:
            try:
                value, end = STRICT.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                wrong = error.msg
            except _TooMuch as error:
                return self._past(number, str(error))
            except RecursionError as error:
                raise RequestError(f"{self._name}: element {number}: {_TOO_DEEP}") from error
            except ValueError as error:
                return self._past(number, f"broken JSON: {error}")
            else:
                if end < len(self._text) or self._ended:  # a number may go on
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_LINE_BYTES:
                raise RequestError(
                    f"{self._name}: element {number} is longer than {MAX_LINE_BYTES:,} characters, or broken; an array "
                    "of rows, or JSON Lines, wanted"
                )
            if not self._more():
                raise RequestError(f"{self._name}: broken JSON in element {number}: {wrong}; nothing of it was read")

    def _past(self, number: int, message: str) -> RowError:
        """Pass over a value that is written well and means nothing."""
        _, self._at = json.JSONDecoder().raw_decode(self._text, self._at)
        return RowError(number, None, message)
