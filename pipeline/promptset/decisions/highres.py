"""Decide how a large picture is made: what row and batch say of `highres`, over what the deployment announces."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from pipeline.deployment import cascade_steps
from pipeline.deployment.announcement import Deployment
from pipeline.picture import (
    AS_THE_FIRST,
    Cascade,
    Enlargement,
    Highres,
    HighresAttention,
    HighresMode,
    LaterPasses,
    Scheduler,
)
from pipeline.promptset.fields.highres_options import HighresChoice
from pipeline.promptset.names.samplers import CASCADING, shown_name

# Above so many native areas large shapes repeat in a picture that is rendered directly: 1.5 megapixels for 1024 px.
DIRECT_AREAS = 1.5e6 / 1024**2
_DIRECT = Highres()
# Members of enums have a price where a million rows are resolved.
_REFINED, _AUTO = HighresMode.REFINE, HighresChoice.AUTO
_ONE_SCHEDULE = (HighresChoice.DIRECT, HighresChoice.CASCADE)


def highres_wish(of_row: Mapping[str, Any], of_batch: Mapping[str, Any]) -> dict[str, Any]:
    """What row and batch say of it, by the fields that they set."""
    wish: dict[str, Any] = {}
    for level in (of_batch, of_row):
        if (said := level.get("highres")) is not None:
            wish |= {name: getattr(said, name) for name in said.model_fields_set}
    return wish


def decided_later_passes(
    wish: Mapping[str, Any], highres: Highres, guidance_scale: float, deployment: Deployment, native_px: int
) -> LaterPasses:
    """How the later passes differ from the first, by what is wished, over the deployment's settings.

    Raises ValueError with (field, message) for options that do not go together, or that the deployment does not read.
    """
    if highres.mode is not _REFINED:
        return AS_THE_FIRST
    attention = wish.get("attention")
    if deployment.highres_attention is None:  # as all versions do that know of nothing else
        plain = {"attention": HighresAttention.WHOLE, "enlargement": Enlargement.PIXELS}
        asked = [
            name
            for name in ("attention", *LaterPasses.model_fields)
            if wish.get(name, plain.get(name)) != plain.get(name)
        ]
        if asked:
            found = ", ".join(asked)
            raise ValueError(
                "highres", f"{found} found, which the deployment's version {deployment.version} does not read"
            )
        return AS_THE_FIRST
    if attention is None:
        attention = HighresAttention.WINDOWS if "window_px" in wish else deployment.highres_attention
    scale = _scale_of_later(wish, guidance_scale)
    window_px = wish.get("window_px") or deployment.highres_window_px or native_px
    return _same_passes(
        window_px if attention is HighresAttention.WINDOWS else None,
        scale,
        wish.get("enlargement", deployment.highres_enlargement),
    )


def _scale_of_later(wish: Mapping[str, Any], guidance_scale: float) -> float | None:
    scale: float | None = wish.get("guidance_scale")
    if scale is not None and scale > 1 >= guidance_scale:
        raise ValueError(
            "highres", f"guidance_scale {scale:g} found for later passes of a picture without guidance; up to 1 wanted"
        )
    return scale


def decided_highres(wish: Mapping[str, Any], steps: int, pixels: int, native_px: int) -> Highres:
    """How a picture of so many pixels is made, by what is wished.

    Raises ValueError with (field, message).
    """
    mode = wish.get("mode", _AUTO)
    base_px = wish.get("base_px", native_px)
    if mode is _AUTO and pixels <= max(DIRECT_AREAS * native_px**2, base_px**2):
        return _DIRECT
    if mode in _ONE_SCHEDULE:
        return _DIRECT
    if pixels <= base_px**2:
        raise ValueError(
            "highres",
            f"refine found for a picture no larger than its first pass of {base_px}x{base_px}; auto or direct wanted",
        )
    refine = _same_highres(tuple((name, wish[name]) for name in ("strength", "steps", "base_px") if name in wish))
    if (refine.steps or steps) * refine.strength < 1:
        if refine.steps is not None:
            raise ValueError(
                "highres", f"strength {refine.strength:g} of {refine.steps} steps is less than one step; more wanted"
            )
        # A picture of very few steps: enough for its second pass to have one.
        refine = refine.model_copy(update={"steps": math.ceil(1 / refine.strength)})
    return refine


def decided_cascade(
    wish: Mapping[str, Any],
    scheduler: Scheduler | None,
    size: tuple[int, int],
    native_px: int,
    deployment: Deployment,
    *,
    guidance_scale: float,
    steps: int,
    refiner: bool,
) -> Cascade | None:
    """The cascade of a picture of this size, if one is wished; by default its smallest size alone is guided.

    One that switches before its first step is the plain picture, which is guided as a whole.

    `refiner`: whether a refiner takes over. Raises ValueError with (field, message).
    """
    if wish.get("mode") is not HighresChoice.CASCADE:
        return None
    if not deployment.cascades:
        raise ValueError("highres", f"cascade found, which the deployment's version {deployment.version} does not read")
    if scheduler is not None and scheduler.name not in CASCADING:
        wanted = " or ".join(shown_name(Scheduler(name=name)) for name in CASCADING)
        raise ValueError("highres", f"cascade found beside {shown_name(scheduler)}, which has other steps; {wanted} do")
    if refiner:
        raise ValueError("highres", "cascade found beside a refiner; refiner_switch_at 1 wanted, which is without it")
    scale = _scale_of_later(wish, guidance_scale)
    if scale not in (None, guidance_scale) and not deployment.cascade_guidance:
        version = f"the deployment's version {deployment.version} does not read in a cascade"
        raise ValueError("highres", f"guidance_scale found, which {version}")
    cascade = Cascade(**{name: wish[name] for name in ("switch_at", "base_px") if name in wish})
    if min(round(steps * cascade.switch_at), steps - 1) == 0:
        if scale not in (None, guidance_scale):
            found = f"guidance_scale found beside switch_at {cascade.switch_at:g} of {steps} steps"
            raise ValueError("highres", f"{found}, which is the plain picture; a later switch or no such scale wanted")
    elif deployment.cascade_guidance and (own := 1.0 if scale is None else scale) != guidance_scale:
        cascade = cascade.model_copy(update={"guidance_scale": own})
    if not cascade_steps.halvings(*size, cascade.base_px or native_px):
        base_px = cascade.base_px or native_px
        raise ValueError(
            "highres",
            f"cascade found for {size[0]}x{size[1]}, no twice the first size of {base_px}x{base_px}; auto or "
            "direct wanted",
        )
    return cascade


# Most rows of a batch agree in these, and a million of each would take their time.
@functools.lru_cache(maxsize=256)
def _same_highres(wish: tuple[tuple[str, Any], ...]) -> Highres:
    return Highres(mode=HighresMode.REFINE, **dict(wish))


@functools.lru_cache(maxsize=256)
def _same_passes(window_px: int | None, guidance_scale: float | None, enlargement: Enlargement) -> LaterPasses:
    passes = LaterPasses(window_px=window_px, guidance_scale=guidance_scale, enlargement=enlargement)
    return AS_THE_FIRST if passes == AS_THE_FIRST else passes
