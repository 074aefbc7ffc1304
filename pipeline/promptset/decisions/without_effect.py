"""What a row says that decides nothing of its picture beside all else that it says: a warning by field, no refusal.

Refused is what contradicts itself; this only goes without, and much of it is said for all rows and meant for others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.deployment import cascade_steps
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.cost import LARGEST_STEP
from pipeline.deployment.displacement import OF_ROWS, Exchange
from pipeline.picture import Cascade, HighresMode
from pipeline.promptset.decisions.begins import OF_MASK, OF_REGION, asking, growth
from pipeline.promptset.decisions.prompts import is_composed
from pipeline.promptset.fields.highres_options import HighresChoice, HighresOptions
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.syntax import reading
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import BadSyntax

Notes = Iterator[tuple[str, str]]

# What the negative half is told, and how both become one.
_OF_GUIDANCE = (
    *("negative_prompt", "negative_prompt_2", "guidance_rescale", "guidance_interval"),
    *("negative_original_size", "negative_crop", "negative_target_size"),
)
_OF_LATER_PASSES = ("strength", "steps", "guidance_scale", "enlargement")
_OF_WINDOWS = ("attention", "window_px")
_UNSEEN = ("control", "reference", "loras")  # by a refiner
_OF_WAITS = ("norm_mode", "settling_steps")  # what is seen late, and when


def without_effect(
    row: Row, defaults: Options, resolved: ResolvedRow, deployment: Deployment
) -> Sequence[tuple[str, str]]:
    """Fields without effect, each with why.

    Args:
        row: as it was given.
        defaults: what is said for all rows.
        resolved: the row, decided.
        deployment: that renders it.
    """
    said, values = row.__pydantic_fields_set__, resolved.__dict__
    plain = values["guidance_scale"] > 1 and not any(values[name] for name in ("image", "refiner_switch_at", "cascade"))
    displaced = not deployment.exact and deployment.exchange is Exchange.DISPLACED
    if plain and "highres" not in said and displaced:
        return ()
    given = defaults.explicit_values() | row.explicit_values()
    found = [*_of_masks(given, resolved), *_of_refiner(resolved)]
    if resolved.guidance_scale <= 1 and not _composed(resolved):
        found += _of_guidance(given)
    if "highres" in said:
        found += _of_highres(row.highres, resolved)
    if resolved.cascade is not None:
        found += _of_cascade(resolved, resolved.cascade, deployment.models[resolved.model].native_px)
    if deployment.exact:
        exact = "found, and the deployment is exact: nothing is displaced"
        found += [(name, exact) for name in OF_ROWS if given.get(name) is not None]
    elif deployment.exchange is Exchange.RESIDUAL:
        residual = "found, and the deployment exchanges residuals: all evaluations wait for them"
        found += [(name, residual) for name in _OF_WAITS if given.get(name) is not None]
    return found


def _of_guidance(given: Mapping[str, Any]) -> Notes:
    for name in _OF_GUIDANCE:
        if given.get(name) not in (None, "", Options.model_fields[name].default):
            yield name, "found, and guidance is off, so nothing is made of it; a guidance_scale above 1 wanted"


def _composed(row: ResolvedRow) -> bool:
    """Whether the prompts have a negative half whatever the guidance; of those that name embeddings it is not known."""
    if row.syntax is None:
        return False
    try:
        read = reading.read(row.prompt, row.syntax, row.steps, negative=False, inversions=NO_INVERSIONS)
    except BadSyntax:
        return True
    return is_composed(read)


def _of_highres(own: HighresOptions, row: ResolvedRow) -> Notes:
    said = own.model_fields_set
    unused: tuple[str, ...]
    if row.cascade is None and "switch_at" in said:
        yield "highres", "switch_at found, and the picture is no cascade, whose it is"
    if row.highres.mode is not HighresMode.REFINE:
        unused, why = (*_OF_LATER_PASSES, *_OF_WINDOWS), "the picture is rendered in one pass"
        if row.cascade is not None:
            unused, why = tuple(name for name in unused if name != "guidance_scale"), "a cascade has no later passes"
    elif row.image is not None and growth(row.image, (row.width, row.height)) <= LARGEST_STEP:
        unused, why = _OF_LATER_PASSES, "the picture becomes larger in one pass, with the row's strength and steps"
    else:
        return
    if row.cascade is None and (own.mode is HighresChoice.DIRECT or row.image is not None):
        unused = (*unused, "base_px")
    if found := [name for name in unused if name in said]:
        yield "highres", f"{', '.join(found)} found, and {why}"


def _of_cascade(row: ResolvedRow, cascade: Cascade, native_px: int) -> Notes:
    """An interval of guidance that begins when only sizes are left that are not guided."""
    if cascade.guidance_scale is None or cascade.guidance_scale > 1 or row.guidance_scale <= 1 or _composed(row):
        return
    halvings = cascade_steps.halvings(row.width, row.height, cascade.base_px or native_px)
    guided = next(filter(None, cascade_steps.ends(row.steps, cascade.switch_at, halvings)))
    first, _ = row.guidance_interval
    if math.ceil(first * row.steps) >= guided:
        size = "its smallest size, the only one that is guided,"
        wanted = "an earlier begin or guidance_scale of highres wanted"
        yield "guidance_interval", f"begins at {first:g}, and {size} ends at {guided / row.steps:g}; {wanted}"


def _of_masks(given: Mapping[str, Any], row: ResolvedRow) -> Notes:
    """What is said for all rows; of a row itself it is refused."""
    if row.image is None:
        return
    if row.inpaint is None:
        for name in asking((*OF_MASK, *OF_REGION), given):
            yield name, "given for all rows, and without effect: it has no mask"
    elif row.inpaint.region is None:
        for name in asking(OF_REGION, given):
            yield name, "given for all rows, and without effect: not only what is masked is rendered"


def _of_refiner(row: ResolvedRow) -> Notes:
    if row.refiner_switch_at is None:
        return
    for name in _UNSEEN:
        if getattr(row, name):
            share = f"{row.refiner_switch_at:g}"
            yield name, f"found, and the refiner, which takes over at {share} of the schedule, sees nothing of it"
