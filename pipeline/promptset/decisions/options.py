"""What rows leave open beside their texts: the row, over what holds for all rows, over the deployment's defaults.

Rows of a prompt set differ in their texts, seeds and ids, and mostly agree in all else; what follows from that is
decided once for all that agree.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pipeline.deployment.allowed import AllowedModel
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.displacement import OF_ROWS
from pipeline.input_picture import MAX_SIDE_PX, Inpainting, InputPicture
from pipeline.picture import CLIP_SKIP, WHOLE_SCHEDULE, Conditioning, File, Format, Lora, Scheduler, Syntax
from pipeline.promptset.decisions.begins import MadeOf, begin, check_masked, passes_from
from pipeline.promptset.decisions.highres import decided_cascade, decided_highres, decided_later_passes, highres_wish
from pipeline.promptset.decisions.sizes import GivenSize, check_webp, size
from pipeline.promptset.decisions.steered import decided_control, decided_references
from pipeline.promptset.fields.row import SCHEMA_VERSION, Options, in_order
from pipeline.promptset.fields.values import MAX_LORAS, MIN_SIDE_PX
from pipeline.promptset.names import samplers

KEPT_DECISIONS = 1_024

# What a row has of its own; all else it shares with others.
TEXTS = frozenset({"prompt", "prompt_2", "negative_prompt", "negative_prompt_2"})
OF_ONE_ROW = TEXTS | {"seed", "custom_id", "metadata"}
_UNDECIDED = dict.fromkeys(("row", "first_image", "custom_id", "prompt", "metadata"))

_WEBP, _PNG = Format.WEBP, Format.PNG  # members of enums have a price for each of a million rows
_DEFAULTS = {name: field.get_default() for name, field in Options.model_fields.items()}
_CONDITIONING, _FILE = itemgetter(*Conditioning.model_fields), itemgetter(*File.model_fields)
_OF_SAMPLING = frozenset({"steps", "scheduler", *samplers.TAKES})
_FOR_DISTILLED = {"steps": samplers.LCM_STEPS, "guidance_scale": samplers.LCM_GUIDANCE}


class Decisions:
    """What is decided of the rows of a prompt set, by what they say.

    Attributes:
        deployment: whose limits, models and defaults hold.
        of_batch: what is said for all rows, by field.
        of: decides: the fields of a resolved row in their order, of which `resolve` fills in those of one row. Takes
            the fields that the row sets but for those of one row, its syntax, the LoRAs that its prompts name, and the
            pictures that it is made of. Raises ValueError with (field, message).
    """

    def __init__(self, defaults: Options, deployment: Deployment) -> None:
        self.deployment, self.of_batch = deployment, defaults.explicit_values()
        self.of = functools.lru_cache(maxsize=KEPT_DECISIONS)(self._decide)
        # None is literal text, which is not meant as such for sure.
        literal = deployment.prompt_syntax == Syntax.NONE
        self._syntax = None if literal else Syntax(deployment.prompt_syntax)

    def syntax_of(self, row: Mapping[str, Any], said: set[str]) -> Syntax | None:
        """That of a row's prompts, from its fields, and those of them that it sets."""
        own: Syntax | None = row["syntax"] if "syntax" in said else self.of_batch.get("syntax")
        return own or self._syntax

    def _decide(
        self,
        settings: frozenset[tuple[str, Any]],
        syntax: Syntax | None,
        named: tuple[Lora, ...],
        made_of: MadeOf,
    ) -> dict[str, Any]:
        deployment, of_row, of_batch = self.deployment, dict(settings), self.of_batch
        begun, steering, resembled = made_of
        given = of_batch | of_row
        model = _model(of_row, of_batch, deployment)
        native_px = deployment.models[model].native_px
        given["loras"] = _loras(given, named, deployment, model)
        of_model = _of_model(model, given, deployment)
        scheduler = given.get("scheduler", of_model.get("scheduler"))
        distilled = scheduler is not None and scheduler.name in samplers.DISTILLED
        values: dict[str, Any] = _DEFAULTS | (_FOR_DISTILLED if distilled else {}) | of_model | given
        values["steps"] = _steps(values, of_row, of_batch)
        picture = None if begun is None else begun.picture
        width, height = _size(of_row, of_batch, deployment, native_px, picture)
        wish, begins = highres_wish(of_row, of_batch), begin(of_row, values, begun, (width, height), native_px)
        check_masked(model, deployment.models[model], begins)
        if picture is None:
            highres = decided_highres(wish, values["steps"], width * height, native_px)
        else:
            painted: Inpainting | None = begins["inpaint"]
            if painted is not None and not deployment.masks:
                name = "canvas" if values["mask"] is None else "mask"
                raise ValueError(name, _not_read(deployment))
            if painted is not None and painted.rounds > 1 and not deployment.mask_rounds:
                raise ValueError("mask_rounds", _not_read(deployment))
            alone = painted is not None and painted.region is not None
            highres = passes_from(picture, wish, values["steps"], (width, height), region=alone)
        _check(values, scheduler, deployment)
        refiner_switch_at = _refiner_switch_at(values["refiner_switch_at"], deployment.models[model])
        refined = refiner_switch_at is not None
        scale: float = values["guidance_scale"]
        cascade = decided_cascade(
            *(wish, scheduler, (width, height), native_px, deployment),
            guidance_scale=scale,
            steps=values["steps"],
            refiner=refined,
        )
        rendered = _rendered(begins["inpaint"], width, height)
        listed: dict[str, Any] = {"deployment": deployment, "model": model}
        control = decided_control(values["control"], steering, rendered, cascade=cascade, **listed)
        reference = decided_references(values["reference"], resembled, rendered, **listed)
        return in_order(
            values
            | _UNDECIDED
            | begins
            | {
                "schema_version": SCHEMA_VERSION,
                "width": width,
                "height": height,
                "model": model,
                "syntax": syntax,
                "embeddings": (),
                "highres": highres,
                "later_passes": decided_later_passes(wish, highres, scale, deployment, native_px),
                "conditioning": _conditioning(*_CONDITIONING(values)),
                "file": _file(of_row, of_batch, values, width, height),
                "cascade": cascade,
                "control": control,
                "reference": reference,
                "refiner_switch_at": refiner_switch_at,
            }
        )


def _check(values: Mapping[str, Any], scheduler: Scheduler | None, deployment: Deployment) -> None:
    """Raise ValueError for what does not go together, or what an earlier version does not read."""
    if scheduler is not None and (
        refused := samplers.refusal(scheduler, steps=values["steps"], guidance_scale=values["guidance_scale"])
    ):
        raise ValueError(*refused)
    if values["clip_skip"] != CLIP_SKIP and not deployment.syntaxes:
        raise ValueError("clip_skip", _not_read(deployment))
    if values["guidance_interval"] != WHOLE_SCHEDULE and not deployment.guidance_intervals:
        raise ValueError("guidance_interval", _not_read(deployment))
    for name in OF_ROWS:
        read = deployment.settling if name == "settling_steps" else deployment.displacements
        if values[name] is not None and not read:
            raise ValueError(name, _not_read(deployment))


def _not_read(deployment: Deployment) -> str:
    return f"found, which the deployment's version {deployment.version} does not read"


def _rendered(painted: Inpainting | None, width: int, height: int) -> tuple[int, int]:
    """Width and height in which a row is rendered: its own, or those of the region that is rendered alone."""
    return (width, height) if painted is None or painted.region is None else painted.region.rendered


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


def _loras(given: Mapping[str, Any], named: tuple[Lora, ...], deployment: Deployment, model: str) -> tuple[Lora, ...]:
    """Those of the row and those that its prompts name, by their ids."""
    loras: tuple[Lora, ...] = given.get("loras", ())
    if loras:
        loras = _listed(loras, deployment)
    if named:
        own = {lora.name for lora in loras}
        loras = (*loras, *(lora for lora in named if lora.name not in own))
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
        if (refusal := deployment.loras[lora.name].refusal) is not None:
            raise ValueError("loras", f"{lora.name[:80]!r} {refusal}; a row without it wanted")
        if not (allowed := deployment.loras[lora.name]).fits(model):
            made_for = ", ".join(allowed.models)
            raise ValueError("loras", f"{lora.name[:80]!r} is for {made_for}; the row's model is {model!r}")


def _model(of_row: Mapping[str, Any], of_batch: Mapping[str, Any], deployment: Deployment) -> str:
    """Its id."""
    model: str | None = of_row.get("model") or of_batch.get("model") or deployment.default_model
    if model is None:
        raise ValueError(
            "model", f"none given, and the deployment has no default; allowed are {deployment.model_names()}"
        )
    if model not in deployment.models:
        raise ValueError("model", f"{model[:80]!r} is not on the allow-list; allowed are {deployment.model_names()}")
    return model


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


def _file(
    of_row: Mapping[str, Any], of_batch: Mapping[str, Any], values: Mapping[str, Any], width: int, height: int
) -> File:
    file = _same_file(*_FILE(values))
    if file.format is _WEBP:
        check_webp(width, height)
    if file.format is not _PNG:
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
