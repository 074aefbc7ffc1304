"""Read a prompt set row by row, and say everything that is wrong with it at once.

Rows stream: memory holds one row, and sixteen bytes a row to notice a custom_id that comes twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from pipeline.deployment.announcement import Deployment
from pipeline.errors import PromptSetError, RequestError, RowError, RowWarning
from pipeline.inputs.gathered import InputPictures
from pipeline.promptset.decisions.feasible import check_feasible
from pipeline.promptset.decisions.levels import overridden, unreached
from pipeline.promptset.decisions.named_pictures import NamedPictures
from pipeline.promptset.decisions.options import Decisions
from pipeline.promptset.decisions.prompts import slips_of, unread_syntax, unread_warning
from pipeline.promptset.decisions.resolve import resolve
from pipeline.promptset.decisions.without_effect import without_effect
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.fields.shorthand import shortened
from pipeline.promptset.formats.foreign import is_foreign, translated
from pipeline.promptset.formats.source import Source
from pipeline.promptset.names.aliases import BadFields, nearest, resolve_aliases

KEPT_WARNINGS, KEPT_ERRORS = 50, 10_000
# After so many invalid rows no more is read. Where they are left out, it is after as many as there may be rows.
MAX_INVALID_ROWS = 10_000
# A name that was meant is looked for in so many invalid rows: it takes longer than all else.
_HINTED_ROWS = 1_000
MAX_ERRORS_OF_ROW = 20

# Fields whose values are client material: messages about them never repeat what was found.
_PRIVATE = frozenset({"prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "metadata", "body"})


@dataclass
class Validation:
    """What a pass over a prompt set found; complete once its rows have been consumed.

    `inputs` reads the pictures that rows begin with; by default none from this machine or a bucket.
    """

    source: str
    rows: int = 0
    images: int = 0
    invalid: int = 0
    invalid_rows: int = 0
    unwanted: int = 0
    unreached: Counter[str] = field(default_factory=Counter)
    errors: list[RowError] = field(default_factory=list)
    sink: Callable[[RowError], object] | None = None
    most_invalid: int = MAX_INVALID_ROWS
    inputs: InputPictures = field(default_factory=InputPictures)
    _warnings: dict[tuple[str | None, str], RowWarning] = field(default_factory=dict)

    @property
    def warnings(self) -> list[RowWarning]:
        """What a user would want to know of valid rows; what is the same of several is one warning."""
        return list(self._warnings.values())

    def warn(self, warning: RowWarning) -> None:
        """Note something about a row; of different warnings the first few are kept."""
        key = warning.field, warning.message
        if (before := self._warnings.get(key)) is not None:
            self._warnings[key] = replace(before, rows=before.rows + warning.rows)
        elif len(self._warnings) < KEPT_WARNINGS:
            self._warnings[key] = warning

    def refuse(self, *errors: RowError) -> None:
        """Note what is wrong with one row; the first few errors are kept, all are counted and given to the sink."""
        self.invalid_rows += 1
        self.invalid += len(errors)
        for error in errors:
            if self.sink is not None:
                self.sink(error)
            if len(self.errors) < KEPT_ERRORS:
                self.errors.append(error)

    def raise_if_refused(self, *, skip_invalid: bool = False) -> None:
        """Raise PromptSetError if a row is invalid, unless those are to be skipped and some row is left."""
        if self.invalid and not (skip_invalid and (self.rows or self.unwanted)):
            raise PromptSetError(self.source, self.errors, self.invalid)


def resolved_rows(
    source: Source,
    defaults: Options,
    deployment: Deployment,
    validation: Validation,
    *,
    batch_seed: int,
    overrides: Options | None = None,
    wanted: Callable[[ResolvedRow], bool] | None = None,
) -> Iterator[ResolvedRow]:
    """The valid rows, everything about them decided; what is wrong with the others is noted in `validation`.

    Args:
        source: of the rows.
        defaults: for what rows leave open.
        deployment: whose limits, models and defaults hold.
        validation: notes errors, counts, and rows that a default does not reach.
        batch_seed: rows without a seed get theirs from it.
        overrides: replace what rows say.
        wanted: is asked about each valid row; those that are not wanted are left out as if they were not there.
    """
    seen: dict[bytes, int] = {}
    decisions = Decisions(defaults, deployment)
    for line, item in source.rows:
        errors: list[RowError] = []
        resolved: ResolvedRow | None = None
        if isinstance(item, RowWarning):
            validation.warn(item)
            continue
        if isinstance(item, RowError):
            errors = [item]
        else:
            errors, resolved = _resolved(
                line,
                item,
                defaults=defaults,
                overrides=overrides,
                decisions=decisions,
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
        if resolved is not None and wanted is not None and not wanted(resolved):
            validation.unwanted += 1
        elif resolved is not None:
            validation.rows += 1
            validation.images += resolved.num_images
            for name, example in unread_syntax(resolved):
                validation.warn(RowWarning(line, name, unread_warning(example, resolved.syntax)))
            for name, message in slips_of(resolved):
                validation.warn(RowWarning(line, name, message))
            yield resolved
        _check_bounds(validation, deployment)
    if not (validation.rows or validation.unwanted or validation.invalid):
        validation.refuse(RowError(1, None, "no rows found; at least one wanted"))


def _check_bounds(found: Validation, deployment: Deployment) -> None:
    """Raise PromptSetError or RequestError if there is more than a batch may have."""
    if found.invalid_rows > min(found.most_invalid, deployment.max_rows):  # each is a line of invalid.jsonl
        raise PromptSetError(found.source, found.errors, found.invalid)
    if found.rows > deployment.max_rows:
        raise RequestError(f"{found.source}: more than {deployment.max_rows:,} rows; split it into several batches")
    if found.images > deployment.max_images:
        raise RequestError(f"{found.source}: more than {deployment.max_images:,} images; split it into several batches")


def _resolved(
    line: int,
    item: Mapping[str, Any] | Row,
    *,
    defaults: Options,
    overrides: Options | None,
    decisions: Decisions,
    validation: Validation,
    batch_seed: int,
) -> tuple[list[RowError], ResolvedRow | None]:
    row = item if isinstance(item, Row) else _row_of(line, item, validation)
    if isinstance(row, list):
        return row, None
    if overrides is not None:
        row = overridden(row, overrides)
    deployment = decisions.deployment
    try:
        named = NamedPictures(row, defaults, deployment, validation.inputs)
        made_of = named.read()
        resolved = resolve(
            row,
            decisions,
            line=line,
            index=validation.rows,
            first_image=validation.images,
            batch_seed=batch_seed,
            made_of=made_of,
        )
        warning = check_feasible(resolved, deployment, line)
    except ValueError as error:
        name, message = error.args
        return [RowError(line, name, message)], None
    if warning is not None:
        validation.warn(warning)
    for name, message in (*named.notes, *without_effect(row, defaults, resolved, deployment)):
        validation.warn(RowWarning(line, name, message))
    if defaults.model_fields_set:
        replaced = overrides.model_fields_set if overrides is not None else frozenset()
        validation.unreached.update(name for name in unreached(row, defaults) if name not in replaced)
    return [], resolved


def _row_of(line: int, item: Mapping[str, Any], validation: Validation) -> Row | list[RowError]:
    """The row, or what is wrong with it. Most are our own fields, and only the others are looked at twice."""
    if not is_foreign(item):
        try:
            return Row.model_validate(item)
        except ValidationError:
            pass
    found = translated(item)
    problems = [RowError(line, name, message) for name, message in found.problems]
    try:
        row = Row.model_validate(found.fields)
    except ValidationError:
        return problems + fields_errors(line, found.fields, Row, hints=validation.invalid_rows < _HINTED_ROWS)
    if problems:
        return problems
    for name, message in found.warnings:
        validation.warn(RowWarning(line, name, message))
    return row


def fields_errors(line: int, item: Any, kind: type[Options], *, hints: bool = True) -> list[RowError]:
    """What is wrong with a row, or with what holds for all rows, as far as a row can bear; empty if nothing is.

    `hints` say for a field that nobody knows which one may be meant.
    """
    fields, problems = resolve_aliases(item, kind.model_fields.keys())
    errors = [RowError(line, _harmless(name), message) for name, message in problems.items()]
    if not fields and problems:  # an envelope without a body
        return errors
    try:
        kind.model_validate(fields)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            cause = problem.get("ctx", {}).get("error")
            if isinstance(cause, BadFields):
                errors += [RowError(line, name, message) for name, message in cause.problems.items()]
            else:
                errors.append(_row_error(line, problem, kind, hints=hints))
            if len(errors) > 4 * MAX_ERRORS_OF_ROW:
                break
    # a metadata value gives one error for each type that it might have been
    return list(dict.fromkeys(errors))[:MAX_ERRORS_OF_ROW]


# In the place of pydantic's, which are those of Python.
_WORDS = {"tuple_type": "a list wanted", "model_type": "an object with fields of its own wanted"}


def _row_error(line: int, problem: Any, kind: type[Options], *, hints: bool) -> RowError:
    """One of pydantic's errors in our words: the field, what was found, what was wanted."""
    of_metadata = problem["loc"][:1] == ("metadata",) and len(problem["loc"]) > 1
    parts = problem["loc"][:2] if of_metadata else problem["loc"]
    name = _harmless(".".join(str(part) for part in parts)) or None
    if problem["type"] == "extra_forbidden":
        inside = len(problem["loc"]) > 1
        hint = "" if inside else f" field; {nearest(str(name), kind.model_fields)}" if hints else " field"
        return RowError(line, name, f"unknown{hint}")
    if of_metadata:
        return RowError(line, name, "a text, a number, true, false or null wanted")
    if problem["type"] == "missing":
        return RowError(line, name, "missing")
    message = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    private = str(problem["loc"][0]) in _PRIVATE if problem["loc"] else True
    if private or problem["type"] == "value_error":
        return RowError(line, name, message)
    return RowError(line, name, f"{message} ({shortened(problem['input'])} found)")


def _harmless(name: str) -> str:
    """A field's name as a terminal may show it; users write these too."""
    return (name if name.isprintable() else ascii(name))[:80]
