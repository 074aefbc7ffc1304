"""What holds for all rows, below and above what a row says itself: defaults that it completes, overrides that win.

A size has several fields that complete or replace each other, so each level is put beside the next one field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.picture import Format
from pipeline.promptset.decisions.sizes import GivenSize, size
from pipeline.promptset.fields.highres_options import HighresOptions
from pipeline.promptset.fields.row import Options, Row

SIZE = frozenset({"width", "height", "size", "aspect", "megapixels"})


def beside(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """What of one level still counts beside the level above it, which replaces its size or completes a part of it.

    Args:
        above: the fields that win.
        below: the fields that give way.
    """
    sizes = above.keys() & SIZE
    dropped: set[str] | frozenset[str] = set()
    if len(sizes) > 1 or "size" in sizes:
        dropped = SIZE
    elif "aspect" in sizes:
        dropped = {"size", *(("width", "height") if {"width", "height"} <= below.keys() else ())}
    elif "megapixels" in sizes:
        dropped = {"size", "width", "height"}
    elif sizes:
        # The other side stays, or else the aspect: three of them would contradict each other.
        dropped = {"size", "megapixels", *(("aspect",) if {"width", "height"} <= above.keys() | below.keys() else ())}
    return {name: value for name, value in below.items() if name not in dropped}


def overridden(row: Row, overrides: Options) -> Row:
    """The row with the values that win over its own."""
    winning = overrides.explicit_values()
    if not winning:
        return row
    values = beside(winning, row.explicit_values()) | winning
    if winning.get("format") is Format.PNG and "quality" not in winning:
        values.pop("quality", None)  # the row's own was for another format
    return Row.model_construct(_fields_set=set(values), **values)


def unreached(row: Row, defaults: Options) -> Iterator[str]:
    """The defaults, by name, that have no effect on this row since it says something else."""
    names = defaults.model_fields_set & row.model_fields_set
    yield from sorted(name for name in names - SIZE if _differ(getattr(defaults, name), getattr(row, name)))
    if (sizes := defaults.model_fields_set & SIZE) and row.model_fields_set & SIZE:
        of_row, of_batch = GivenSize.of(row.explicit_values()), GivenSize.of(defaults.explicit_values())
        alone = size(of_row, GivenSize(), _ANY_PX)
        if size(of_row, of_batch, _ANY_PX) == alone != size(GivenSize(), of_batch, _ANY_PX):
            yield from sorted(sizes)


# Stands for the native size of a model, which is of no account to whether one size replaces another.
_ANY_PX = 1024


def _differ(default: Any, own: Any) -> bool:
    if isinstance(default, HighresOptions) and isinstance(own, HighresOptions):  # the row completes it
        return any(
            getattr(default, part) != getattr(own, part) for part in default.model_fields_set & own.model_fields_set
        )
    return bool(default != own)


def unreached_lines(counts: Mapping[str, int], rows: int) -> Iterator[str]:
    """A line for each default that has no effect on some rows, and what to do if it should.

    Args:
        counts: rows without effect, by name of the default.
        rows: of the prompt set.
    """
    for name, count in sorted(counts.items()):
        if rows == 1:
            found = "the only row names its own"
        else:
            found = (f"all {rows:,}" if count == rows else f"{count:,} of {rows:,}") + " rows name their own"
        yield f"{name}: {found}, which comes first; --override {name}=... replaces {'it' if rows == 1 else 'theirs'}"
