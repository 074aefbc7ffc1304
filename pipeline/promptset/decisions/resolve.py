"""Decide everything that a row leaves open: what it has of its own here, all else in `decisions.py`."""

from __future__ import annotations

from typing import Any

from pipeline.picture import Syntax
from pipeline.promptset.decisions.begins import OF_NOTHING, MadeOf
from pipeline.promptset.decisions.options import OF_ONE_ROW, TEXTS, Decisions
from pipeline.promptset.decisions.prompts import loras_named, read_prompts
from pipeline.promptset.fields.row import ResolvedRow, Row, derived_seed
from pipeline.promptset.fields.values import ANY_SEED

_NONE = Syntax.NONE  # members of enums have a price for each of a million rows


def resolve(
    row: Row,
    decisions: Decisions,
    *,
    line: int,
    index: int,
    first_image: int,
    batch_seed: int,
    made_of: MadeOf = OF_NOTHING,
) -> ResolvedRow:
    """Decide everything that the row leaves open; without a custom_id it is named for its line.

    `made_of` are the pictures that it names.

    Raises ValueError with (field, message) for what only shows when all levels are known: an image larger than the
    deployment renders, one too small for its layout, a model or LoRA that is not on the allow-list, settings that
    do not go together.
    """
    fields, said = row.__dict__, row.__pydantic_fields_set__
    texts = {name: fields[name] for name in said & TEXTS}
    syntax = decisions.syntax_of(fields, said)
    read = syntax if syntax is not _NONE else None
    named = () if read is None else loras_named(decisions.of_batch | texts, read, decisions.deployment)
    settings = frozenset([(name, fields[name]) for name in said - OF_ONE_ROW])
    values: dict[str, Any] = decisions.of(settings, syntax, named, made_of).copy()
    values.update(texts)
    if read is not None:
        values["embeddings"] = read_prompts(values, read, decisions.deployment, values["model"])
    seed = fields["seed"] if "seed" in said else values["seed"]
    custom_id = row.custom_id if row.custom_id is not None else f"row-{line}"
    values["seed"] = derived_seed(batch_seed, custom_id) if seed is None or seed == ANY_SEED else seed
    values["custom_id"], values["metadata"] = custom_id, row.metadata
    values["row"], values["first_image"] = index, first_image
    return ResolvedRow.of_checked(values)
