"""Read a prompt set row by row, and say everything that is wrong with it at once.

Rows stream: memory holds one row, and sixteen bytes a row to notice a custom_id that comes twice.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.deployment import Deployment
from pipeline.errors import ManifestError, RequestError, RowError
from pipeline.request import Options, ResolvedRow, Row, resolve

SHOWN_ERRORS = 50
MAX_LINE_BYTES = 1_000_000

# Fields whose values are client material: messages about them never repeat what was found.
_PRIVATE = frozenset({"prompt", "negative_prompt", "metadata"})

Prompts = str | Path | Iterable[str | Mapping[str, Any]]


@dataclass(frozen=True)
class Source:
    """A prompt set's rows as they come: each either an object, or what is wrong with its line."""

    name: str
    rows: Iterator[tuple[int, Mapping[str, Any] | RowError]]


@dataclass
class Validation:
    """What a pass over a prompt set found; complete once its rows have been consumed."""

    source: str
    rows: int = 0
    images: int = 0
    invalid: int = 0
    invalid_rows: int = 0
    errors: list[RowError] = field(default_factory=list)
    sink: Callable[[RowError], object] | None = None

    def refuse(self, *errors: RowError) -> None:
        """Note what is wrong with one row; the first few errors are kept, all are counted and given to the sink."""
        self.invalid_rows += 1
        self.invalid += len(errors)
        for error in errors:
            if self.sink is not None:
                self.sink(error)
            if len(self.errors) < SHOWN_ERRORS:
                self.errors.append(error)

    def raise_if_refused(self, *, skip_invalid: bool = False) -> None:
        """Raise ManifestError if a row is invalid, unless those are to be skipped and some row is left."""
        if self.invalid and not (skip_invalid and self.rows):
            raise ManifestError(self.source, self.errors, self.invalid)


def open_source(prompts: Prompts) -> Source:
    """A prompt set from the path of a JSON Lines file, or from prompts and objects in memory.

    Raises RequestError if there is no such file or it is of another kind.
    """
    if isinstance(prompts, str | Path):
        path = Path(prompts)
        if path.suffix.lower() not in (".jsonl", ".ndjson"):
            hint = "a list holds prompts themselves: submit([...])" if isinstance(prompts, str) else "JSON Lines"
            raise RequestError(f"{str(prompts)[:200]!r} is no path that ends in .jsonl or .ndjson; {hint}")
        if not path.is_file():
            raise RequestError(f"{path}: no such file")
        return Source(str(path), _json_lines(path))
    return Source("prompts", _objects(prompts))


def _objects(prompts: Iterable[str | Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    for number, item in enumerate(prompts, 1):
        if isinstance(item, str):
            yield number, {"prompt": item}
        elif isinstance(item, Mapping):
            yield number, dict(item)
        else:
            yield number, RowError(number, None, f"{type(item).__name__} found; a prompt or an object wanted")


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield number, RowError(number, None, f"longer than {MAX_LINE_BYTES:,} bytes")
            elif line.strip():
                yield number, _parsed(number, line)


def _parsed(number: int, line: bytes) -> Mapping[str, Any] | RowError:
    try:
        value = json.loads(line.rstrip().decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return RowError(number, None, f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return RowError(number, None, f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        return RowError(number, None, f"broken JSON: {error}")
    if not isinstance(value, dict):
        return RowError(number, None, f"{type(value).__name__} found; a JSON object wanted")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def resolved_rows(
    source: Source, defaults: Options, deployment: Deployment, validation: Validation, *, batch_seed: int
) -> Iterator[ResolvedRow]:
    """The valid rows, everything about them decided; what is wrong with the others is noted in `validation`."""
    seen: dict[bytes, int] = {}
    for line, item in source.rows:
        if isinstance(item, RowError):
            validation.refuse(item)
            continue
        errors, resolved = _resolved(
            line,
            item,
            defaults=defaults,
            deployment=deployment,
            validation=validation,
            batch_seed=batch_seed,
        )
        if resolved is not None:
            digest = hashlib.blake2b(resolved.custom_id.encode(), digest_size=16).digest()
            first = seen.setdefault(digest, line)
            if first != line:
                message = f"{resolved.custom_id!r} was used on line {first}; every row needs its own"
                errors, resolved = [RowError(line, "custom_id", message)], None
        if errors:
            validation.refuse(*errors)
        if resolved is not None:
            validation.rows += 1
            validation.images += resolved.num_images
            yield resolved
        if validation.rows > deployment.max_rows:
            raise RequestError(f"{source.name}: more than {deployment.max_rows:,} rows; split it into several batches")
    if not validation.rows and not validation.invalid:
        validation.refuse(RowError(1, None, "no rows found; one JSON object a line wanted"))


def _resolved(
    line: int,
    item: Mapping[str, Any],
    *,
    defaults: Options,
    deployment: Deployment,
    validation: Validation,
    batch_seed: int,
) -> tuple[list[RowError], ResolvedRow | None]:
    try:
        row = Row.model_validate(item)
    except ValidationError as error:
        # a metadata value gives one error for each type that it might have been
        return list(dict.fromkeys(row_error(line, problem) for problem in error.errors(include_url=False))), None
    try:
        return [], resolve(
            row,
            defaults,
            deployment,
            line=line,
            index=validation.rows,
            first_image=validation.images,
            batch_seed=batch_seed,
        )
    except ValueError as error:
        name, message = error.args
        return [RowError(line, name, message)], None


def row_error(line: int, problem: Any) -> RowError:
    """One of pydantic's errors in our words: the field, what was found, what was wanted."""
    of_metadata = problem["loc"][:1] == ("metadata",) and len(problem["loc"]) > 1
    parts = problem["loc"][:2] if of_metadata else problem["loc"]
    name = _harmless(".".join(str(part) for part in parts)) or None
    if problem["type"] == "extra_forbidden":
        fields = ", ".join(sorted(Row.model_fields))
        return RowError(line, name, f"unknown field; known are {fields}")
    if of_metadata:
        return RowError(line, name, "a text, a number, true, false or null wanted")
    if problem["type"] == "missing":
        return RowError(line, name, "missing")
    message = problem["msg"].removeprefix("Value error, ")
    private = str(problem["loc"][0]) in _PRIVATE if problem["loc"] else True
    if private or problem["type"] == "value_error":
        return RowError(line, name, message)
    return RowError(line, name, f"{message} ({_shown(problem['input'])} found)")


def _harmless(name: str) -> str:
    """A field's name as a terminal may show it; users write these too."""
    return (name if name.isprintable() else ascii(name))[:80]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
