"""Decide everything that a row leaves open: the row, over what holds for all rows, over the deployment's defaults."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pipeline.deployment.announcement import AllowedModel, Deployment
from pipeline.picture import (
    CLIP_SKIP,
    MAX_SIDE_PX,
    WHOLE_SCHEDULE,
    Conditioning,
    File,
    Format,
    InputPicture,
    Lora,
    Syntax,
)
from pipeline.promptset import samplers
from pipeline.promptset.begins import begin, passes_from
from pipeline.promptset.highres import decided_highres, decided_later_passes, highres_wish
from pipeline.promptset.prompts import loras_named, read_prompts
from pipeline.promptset.row import SCHEMA_VERSION, Options, ResolvedRow, Row, derived_seed
from pipeline.promptset.sizes import GivenSize, size
from pipeline.promptset.values import ANY_SEED, MAX_LORAS, MIN_SIDE_PX

MAX_WEBP_PX = 16_383

_DEFAULTS = {name: field.get_default() for name, field in Options.model_fields.items()}
_CONDITIONING, _FILE = itemgetter(*Conditioning.model_fields), itemgetter(*File.model_fields)
_OF_SAMPLING = frozenset({"steps", "scheduler", *samplers.TAKES})
_FOR_DISTILLED = {"steps": samplers.LCM_STEPS, "guidance_scale": samplers.LCM_GUIDANCE}


def resolve(
    row: Row,
    defaults: Options,
    deployment: Deployment,
    *,
    line: int,
    index: int,
    first_image: int,
    batch_seed: int,
    picture: InputPicture | None = None,
) -> ResolvedRow:
    """Decide everything that the row leaves open; without a custom_id it is named for its line.

    `picture` is the one that its image names.

    Raises ValueError with (field, message) for what only shows when all levels are known: an image larger than the
    deployment renders, one too small for its layout, a model or LoRA that is not on the allow-list, settings that
    do not go together.
    """
    of_row, of_batch = row.explicit_values(), defaults.explicit_values()
    given = of_batch | of_row
    model, native_px = _model(row, defaults, deployment)
    syntax: Syntax | None = given.get("syntax") or _syntax_of(deployment)
    given["loras"] = _loras(given, syntax, deployment, model)
    of_model = _of_model(model, given, deployment)
    scheduler = given.get("scheduler", of_model.get("scheduler"))
    values: dict[str, Any] = _DEFAULTS.copy()  # updated in place: a million rows are resolved
    if scheduler is not None and scheduler.name in samplers.DISTILLED:
        values.update(_FOR_DISTILLED)
    values.update(of_model)
    values.update(given)
    values["steps"] = _steps(values, of_row, of_batch)
    width, height = _size(of_row, of_batch, deployment, native_px, picture)
    wish, begins = highres_wish(of_row, of_batch), begin(of_row, values, picture, width, height)
    if picture is None:
        highres = decided_highres(wish, values["steps"], width * height, native_px)
    else:
        highres = passes_from(picture, wish, values["steps"], (width, height))
    if scheduler is not None and (
        refused := samplers.refusal(scheduler, steps=values["steps"], guidance_scale=values["guidance_scale"])
    ):
        raise ValueError(*refused)
    if values["clip_skip"] != CLIP_SKIP and not deployment.syntaxes:
        raise ValueError("clip_skip", f"found, which the deployment's version {deployment.version} does not read")
    if values["guidance_interval"] != WHOLE_SCHEDULE and not deployment.guidance_intervals:
        raise ValueError(
            "guidance_interval", f"found, which the deployment's version {deployment.version} does not read"
        )
    embeddings: tuple[str, ...] = ()
    if syntax is not None and syntax is not Syntax.NONE:
        embeddings = read_prompts(values, syntax, deployment, model)
    seed = values["seed"]
    custom_id = row.custom_id if row.custom_id is not None else f"row-{line}"
    values.update(
        schema_version=SCHEMA_VERSION,
        row=index,
        first_image=first_image,
        custom_id=custom_id,
        prompt=row.prompt,
        seed=derived_seed(batch_seed, custom_id) if seed in (None, ANY_SEED) else seed,
        width=width,
        height=height,
        model=model,
        syntax=syntax,
        embeddings=embeddings,
        highres=highres,
        later_passes=decided_later_passes(wish, highres, values["guidance_scale"], deployment, native_px),
        conditioning=_conditioning(*_CONDITIONING(values)),
        file=_file(of_row, of_batch, values, max(width, height)),
        metadata=row.metadata,
        refiner_switch_at=_refiner_switch_at(values["refiner_switch_at"], deployment.models[model]),
        **begins,
    )
    return ResolvedRow.of_checked(values)


def _steps(values: Mapping[str, Any], of_row: Mapping[str, Any], of_batch: Mapping[str, Any]) -> int:
    """As many as there are timesteps or sigmas of its own, if it has them."""
    steps: int = values["steps"]
    own = [name for name in samplers.TAKES if values[name] is not None]
    if not own:
        return steps
    if len(own) > 1:
        raise ValueError("timesteps", "given beside sigmas; one of both wanted")
    [name] = own
    if refused := samplers.schedule_refusal(values["scheduler"], name):
        raise ValueError(name, refused)
    said = "steps" in of_row or (name not in of_row and "steps" in of_batch)
    if said and steps != len(values[name]):
        raise ValueError(name, f"{len(values[name])} found for {steps} steps; one for each wanted, or no steps given")
    if values["highres"] is not None and "steps" in values["highres"].model_fields_set:
        raise ValueError(name, "given beside the steps of highres; each pass has these")
    return len(values[name])


def _loras(given: Mapping[str, Any], syntax: Syntax | None, deployment: Deployment, model: str) -> tuple[Lora, ...]:
    """Those of the row and those that its prompts name, by their ids."""
    loras: tuple[Lora, ...] = given.get("loras", ())
    if loras:
        loras = _listed(loras, deployment)
    if syntax is not None and syntax is not Syntax.NONE:
        own = {lora.name for lora in loras}
        loras = (*loras, *(lora for lora in loras_named(given, syntax, deployment) if lora.name not in own))
    if loras:
        _check_loras(loras, deployment, model)
    return loras


def _listed(loras: Iterable[Lora], deployment: Deployment) -> tuple[Lora, ...]:
    """LoRAs under their ids on the deployment's allow-list."""
    found: dict[str, Lora] = {}
    for lora in loras:
        name = lora.name if lora.name in deployment.loras else deployment.lora_names.find(lora.name)
        if name is None:
            message = f"{lora.name[:80]!r} is not on the allow-list; {deployment.lora_names.nearest(lora.name)}"
            raise ValueError("loras", message)
        if name in found:
            raise ValueError("loras", f"{name[:80]!r} is there twice; add up its scales")
        found[name] = lora if name == lora.name else lora.model_copy(update={"name": name})
    return tuple(found.values())


def _check_loras(loras: Sequence[Lora], deployment: Deployment, model: str) -> None:
    if len(loras) > MAX_LORAS:
        raise ValueError("loras", f"{len(loras)} found, with those of the prompts; at most {MAX_LORAS} wanted")
    for lora in loras:
        if not (allowed := deployment.loras[lora.name]).fits(model):
            made_for = ", ".join(allowed.models)
            raise ValueError("loras", f"{lora.name[:80]!r} is for {made_for}; the row's model is {model!r}")


def _syntax_of(deployment: Deployment) -> Syntax | None:
    """That of rows which do not say theirs; None for literal text, which is not meant as such for sure."""
    return None if deployment.prompt_syntax == Syntax.NONE else Syntax(deployment.prompt_syntax)


def _model(row: Row, defaults: Options, deployment: Deployment) -> tuple[str, int]:
    """Its id and native size."""
    model = row.model or defaults.model or deployment.default_model
    if model is None:
        raise ValueError(
            "model", f"none given, and the deployment has no default; allowed are {deployment.model_names()}"
        )
    if model not in deployment.models:
        raise ValueError("model", f"{model[:80]!r} is not on the allow-list; allowed are {deployment.model_names()}")
    return model, deployment.models[model].native_px


def _of_model(model: str, given: Mapping[str, Any], deployment: Deployment) -> dict[str, Any]:
    """What the model says of how it is sampled, and over it what the LoRAs say that make another of it."""
    values = deployment.models[model].defaults.values()
    for lora in given.get("loras", ()):
        if lora.name in deployment.loras:
            values |= deployment.loras[lora.name].defaults.values()
    if values and given.keys() & _OF_SAMPLING:
        values.pop("timesteps", None)  # they are for the steps and the scheduler beside them
    return values


def _refiner_switch_at(wanted: float | None, model: AllowedModel) -> float | None:
    """Where the refiner takes over, if it does."""
    own = model.refiner_switch_at
    if own is None and wanted is not None and wanted < 1:
        raise ValueError("refiner_switch_at", f"{wanted:g} found, and the row's model has no refiner")
    share = own if wanted is None else wanted
    return None if share is None or share >= 1 else share


def _size(
    of_row: Mapping[str, Any],
    of_batch: Mapping[str, Any],
    deployment: Deployment,
    native_px: int,
    picture: InputPicture | None,
) -> tuple[int, int]:
    width, height = of_row.get("width"), of_row.get("height")
    if width is None or height is None:  # most rows have both
        own, rest = GivenSize.of(of_row), GivenSize.of(of_batch)
        if picture is not None and own == rest == GivenSize():
            width, height = picture.width, picture.height
        else:
            width, height = size(own, rest, native_px)
    for name, side in (("width", width), ("height", height)):
        if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
            source = "image" if picture is not None else "aspect"
            raise ValueError(name, f"{side} follows from the {source}; {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels wanted")
    if width * height > deployment.max_megapixels * 1e6:
        found = f"{width}x{height} is {width * height / 1e6:.1f} megapixels"
        raise ValueError("width", f"{found}; the deployment renders up to {deployment.max_megapixels:g}")
    if max(width, height) < deployment.shortest_long_side_px:
        raise ValueError(
            "width",
            f"{width}x{height} found; the deployment's layout {deployment.layout} wants a longer side of at least "
            f"{deployment.shortest_long_side_px} px",
        )
    return width, height


def _file(of_row: Mapping[str, Any], of_batch: Mapping[str, Any], values: Mapping[str, Any], longest_px: int) -> File:
    file = _same_file(*_FILE(values))
    if file.format is Format.WEBP and longest_px > MAX_WEBP_PX:
        raise ValueError("format", f"webp found for a side of {longest_px} pixels; it holds up to {MAX_WEBP_PX}")
    if file.format is not Format.PNG:
        return file
    # A batch's quality is for its rows in JPEG and WebP; a row of it that says PNG needs none.
    if "quality" in of_row or ("quality" in of_batch and "format" not in of_row):
        raise ValueError("quality", "given for a PNG, which loses nothing; jpeg or webp wanted as its format")
    return _same_file(file.format, _DEFAULTS["quality"], file.dpi, file.strip_metadata)


# Most rows of a batch agree in these, and a million of each would take their time.
@functools.lru_cache(maxsize=256)
def _conditioning(*values: Any) -> Conditioning:
    return Conditioning(**dict(zip(Conditioning.model_fields, values, strict=True)))


@functools.lru_cache(maxsize=256)
def _same_file(*values: Any) -> File:
    return File(**dict(zip(File.model_fields, values, strict=True)))
