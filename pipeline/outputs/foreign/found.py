"""What a reader makes of a file of another program, and how values of unknown kind become those of a row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.promptset.fields.row import Row
from pipeline.promptset.fields.values import MAX_SEED

MAX_NOTE_CHARACTERS = 200
MAX_NODES = 10_000  # of anything that stands in a file's JSON


class NotCarriedOver(ValueError):
    """A picture that cannot be written as a row, and what stands in the way."""


@dataclass(frozen=True)
class ForeignPicture:
    """A picture of another program as a row.

    Attributes:
        program: that made it.
        row: fields of `pipeline.promptset.fields.row.Row`, without model and custom_id.
        left_out: what is not part of the row, each in a few words.
        model: the checkpoint's name there.
        model_hash: as it stands there; AutoV2 if it has ten digits.
    """

    program: str
    row: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    model: str | None = None
    model_hash: str | None = None


@dataclass
class Found:
    """A row in the making."""

    row: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str) -> None:
        """Note something that is not carried over."""
        self.left_out.append(shown(what))

    def put(self, name: str, value: Any, kind: type) -> None:
        """Set a field if the value is one of this kind, which a text may say; note it if it is not. None is nothing."""
        if value is None:
            return
        found = number(value, kind)
        if found is None:
            self.leave_out(f"{name} {value!r}")
        else:
            self.row[name] = found

    def seed(self, value: Any) -> None:
        """Set the seed; ComfyUI's may be larger than any here, and is then left out."""
        found = number(value, int)
        if found is None or not 0 <= found <= MAX_SEED:
            self.leave_out(f"seed {value!r}: 0 to {MAX_SEED} wanted")
        else:
            self.row["seed"] = found


def number(value: Any, kind: type) -> Any:
    """An int or float of a number or a text that says one; None if it says none, or is not finite."""
    try:
        if isinstance(value, str) and len(value) > 40:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        found = float(value) if kind is float or "." in str(value) else int(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(found) or (kind is int and found != int(found)):
        return None
    return kind(found)


def parsed_json(text: str, what: str) -> Any:
    """JSON of a file. Raises NotCarriedOver if it is broken, too deep, or of too many parts."""
    try:
        # ComfyUI writes NaN for what has changed.
        value = json.loads(text)
    except RecursionError:
        raise NotCarriedOver(f"{what} has brackets within brackets without end") from None
    except ValueError as error:
        raise NotCarriedOver(f"{what} is broken JSON ({str(error)[:80]})") from error
    if isinstance(value, Mapping | list) and len(value) > MAX_NODES:
        raise NotCarriedOver(f"{what} has {len(value):,} parts; at most {MAX_NODES:,} wanted")
    return value


def shown(text: object) -> str:
    """A text of a file as a terminal may show it."""
    plain = str(text)[: 4 * MAX_NOTE_CHARACTERS]
    plain = plain if plain.isprintable() else ascii(plain)[1:-1]
    return plain if len(plain) <= MAX_NOTE_CHARACTERS else plain[: MAX_NOTE_CHARACTERS - 3] + "..."


def known_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without fields that no row of this version has."""
    return {name: value for name, value in row.items() if name in Row.model_fields}
