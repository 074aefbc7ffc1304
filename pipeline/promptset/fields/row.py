"""One row of a prompt set: as a user writes it, and resolved, when nothing about it is open any more.

Precedence: the row, over what the command line or the client says for all rows, over the deployment's defaults
(`resolve.py`). A negative prompt of None (zeroed embeddings) and of "" (the encoded empty text) give different
pictures, so the two stay apart from here to the encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, Unpack

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.input_picture import Fit
from pipeline.inputs.reference import WantedPlace
from pipeline.names import MAX_IMAGES_OF_BATCH
from pipeline.picture import (
    CLIP_SKIP,
    MAX_CLIP_SKIP,
    MAX_STEPS,
    WHOLE_SCHEDULE,
    Format,
    LongPrompt,
    Lora,
    NormMode,
    Picture,
    Scheduler,
    Syntax,
)
from pipeline.promptset.fields import shorthand
from pipeline.promptset.fields.control import Controls
from pipeline.promptset.fields.highres_options import HighresOptions
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.promptset.fields.reference import References
from pipeline.promptset.fields.values import (
    MAX_IMAGES_PER_ROW,
    MAX_LORAS,
    ConditioningSize,
    Crop,
    CustomId,
    EdgePx,
    InputReference,
    MaskReference,
    MaskRounds,
    Metadata,
    Prompt,
    Seed,
    Side,
    Size,
    Text,
    each_once,
    jpeg,
    lower,
)
from pipeline.promptset.names.aliases import BadFields, resolve_aliases
from pipeline.schema import Versioned

SCHEMA_VERSION = 1

_SIZES = ("size", "aspect", "megapixels")  # beside the sides


class Options(BaseModel):
    """What a user may decide about a picture, for one row or for all of them. What is unset, the next level decides.

    The values here are the deployment's defaults; None stands for one that follows from something else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    prompt_2: Text | None = Field(None, description="Prompt of the second text encoder; null: the prompt itself.")
    negative_prompt: Text | None = Field(
        None, description='What to avoid. null: zeroed embeddings; "": the encoded empty text, another picture.'
    )
    negative_prompt_2: Text | None = Field(
        None, description="Negative prompt of the second text encoder; null: the negative prompt itself."
    )
    syntax: Annotated[Syntax, BeforeValidator(shorthand.syntax)] | None = Field(
        None, description="Whose brackets, weights, `BREAK` and so on prompts have (docs/prompts.md); none: letters."
    )
    clip_skip: int = Field(
        CLIP_SKIP,
        strict=True,
        ge=1,
        le=MAX_CLIP_SKIP,
        description="Layer of the text encoders that is read, counted from the last; 2 is SDXL's own.",
    )
    long_prompt: Annotated[LongPrompt, BeforeValidator(lower)] = Field(
        LongPrompt.ERROR, description="Texts over 77 tokens: encode them in pieces, cut them off, or fail the image."
    )
    seed: Seed | None = Field(
        None, description="Of the first image. -1 or none: it follows from batch seed and custom_id."
    )
    num_images: int = Field(
        1, strict=True, ge=1, le=MAX_IMAGES_PER_ROW, description="Images of a row; image i has seed + i."
    )
    width: Side | None = Field(None, description="Pixels, any number from 64 on; by default the model's native size.")
    height: Side | None = Field(None, description="Pixels, likewise.")
    size: Size | None = Field(None, description="Width and height at once; one number is a square.")
    aspect: Annotated[float, BeforeValidator(shorthand.aspect)] | None = Field(
        None, description="Width through height, instead of one side or both; sides become multiples of 8."
    )
    megapixels: float | None = Field(
        None, strict=True, gt=0, le=268, description="Millions of pixels of an aspect; by default the native size's."
    )
    steps: int = Field(30, strict=True, ge=1, le=MAX_STEPS, description="Denoising steps; 8 with LCM.")
    guidance_scale: float = Field(
        5.0, strict=True, ge=0, le=100, description="Classifier-free guidance; up to 1 is off. 1 with LCM."
    )
    guidance_rescale: float = Field(
        0.0, strict=True, ge=0, le=1, description="Against overexposure at high guidance scales."
    )
    guidance_interval: Annotated[tuple[float, float], BeforeValidator(shorthand.interval)] = Field(
        WHOLE_SCHEDULE, description="Shares of the schedule between which there is guidance: faster, less saturated."
    )
    scheduler: Annotated[Scheduler, BeforeValidator(shorthand.scheduler)] | None = Field(
        None, description="Sampler, by the name users know or by its diffusers class; by default the model's own."
    )
    timesteps: Annotated[tuple[float, ...], BeforeValidator(shorthand.timesteps)] | None = Field(
        None, description="One per step, falling from at most 999 to at least 0, instead of the scheduler's own."
    )
    sigmas: Annotated[tuple[float, ...], BeforeValidator(shorthand.sigmas)] | None = Field(
        None, description="The same in sigmas, falling; a last one of 0 may be left out."
    )
    model: str | None = Field(
        None, strict=True, description="From the deployment's allow-list; by default the deployment's."
    )
    loras: Annotated[tuple[Lora, ...], BeforeValidator(shorthand.loras), AfterValidator(each_once)] = Field(
        (), max_length=MAX_LORAS, description="LoRAs from the deployment's allow-list, with scales; added up."
    )
    highres: Annotated[HighresOptions, BeforeValidator(shorthand.highres)] = Field(
        HighresOptions(), description="How a large picture is made: auto, direct, refine or cascade; options below."
    )
    image: InputReference | None = Field(
        None,
        description="Picture to begin with: a path, upload://ID, s3://... or batch://ID/CUSTOM_ID (docs/images-in.md).",
    )
    strength: float | None = Field(
        None,
        strict=True,
        gt=0,
        le=1,
        description="How far from the image: the share of the schedule that is walked; by default 0.6.",
    )
    fit: Annotated[Fit, BeforeValidator(lower)] | None = Field(
        None, description="An image of another shape than the picture's: fill cuts off, fit adds, stretch distorts."
    )
    mask: MaskReference | None = Field(
        None, description="Painted anew: a picture of the image's size, white there, or alpha: its transparent parts."
    )
    mask_grow: EdgePx = Field(0, description="Pixels by which the mask is larger on all sides.")
    mask_feather: EdgePx = Field(
        0, description="Pixels around the mask over which new passes into old; 0 keeps all outside bit for bit."
    )
    mask_rounds: MaskRounds = Field(1, description="In which a large hole is filled, the most certain part first.")
    canvas: Annotated[WantedPlace, BeforeValidator(shorthand.canvas)] | None = Field(
        None,
        description="Larger picture that the image lies in, in the middle or where it says; what is around is painted.",
    )
    only_masked: bool = Field(
        False, strict=True, description="Render the mask and its surroundings alone, large, and paste them in."
    )
    mask_padding: int = Field(
        32, strict=True, ge=0, le=4096, description="Pixels around the mask that only_masked renders, too."
    )
    masked_size: Size | None = Field(
        None, description="Size in which only_masked renders; by default the model's native number of pixels at least."
    )
    control: Controls = Field((), description="ControlNets, each with its picture (docs/images-in.md).")
    reference: References = Field((), description="Pictures that it shall resemble, each by an IP-Adapter.")
    refiner_switch_at: float | None = Field(
        None,
        strict=True,
        gt=0,
        le=1,
        description="Share of the schedule after which the model's refiner takes over; null: as its setting has it, 1: "
        "without it.",
    )
    resync: float | None = Field(
        None, strict=True, gt=0, description="Drift above which one more evaluation is synchronous; null: deployment's."
    )
    norm_mode: Annotated[NormMode, BeforeValidator(lower)] | None = Field(
        None, description="Where displaced evaluations have GroupNorm's statistics from; null: the deployment's."
    )
    most_work: float | None = Field(
        None, strict=True, ge=1, description="Of a rank, times the mean, before it hands on tokens; null: deployment's."
    )
    settling_steps: int | None = Field(
        None, strict=True, ge=0, description="First evaluations displacing keys and values alone; null: deployment's."
    )
    original_size: ConditioningSize = Field(
        None, description="Size that the model is told its picture had; null: its own."
    )
    crop: Crop = Field((0, 0), description="Left and top that the model is told were cut off.")
    target_size: ConditioningSize = Field(None, description="Size that the model is told to aim for; null: its own.")
    negative_original_size: ConditioningSize = Field(None, description="`original_size` of the negative half.")
    negative_crop: Crop = Field((0, 0), description="`crop` of the negative half.")
    negative_target_size: ConditioningSize = Field(None, description="`target_size` of the negative half.")
    format: Annotated[Format, BeforeValidator(jpeg)] = Field(Format.PNG, description="Of the file.")
    quality: int = Field(95, strict=True, ge=1, le=100, description="Of JPEG and WebP.")
    dpi: int = Field(300, strict=True, ge=1, le=2400, description="Pixels an inch that the file names for printing.")
    strip_metadata: bool = Field(
        False, strict=True, description="Write nothing about the picture into the file; the sidecar keeps it."
    )

    @model_validator(mode="before")
    @classmethod
    def _under_our_names(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        fields, problems = resolve_aliases(given, cls.__pydantic_fields__.keys())
        if problems:
            raise BadFields(problems)
        return fields

    @model_validator(mode="after")
    def _one_way_to_say_a_size(self) -> Self:
        if self.__pydantic_fields_set__.isdisjoint(_SIZES):  # most rows have two sides, or nothing
            return self
        names = ("width", "height", *_SIZES)
        given = {name for name in names if getattr(self, name) is not None}
        if "size" in given and (others := given - {"size"}):
            raise BadFields({"size": f"given with {', '.join(sorted(others))}; one way to say a size wanted"})
        if {"width", "height"} <= given and (both := given & {"aspect", "megapixels"}):
            raise BadFields({min(both): "given with width and height, which say it all"})
        if "megapixels" in given and given & {"width", "height"}:
            raise BadFields({"megapixels": "given with a side; an aspect wanted with one of both"})
        return self

    if TYPE_CHECKING:  # what users may write, which is more than the types above: size="832x1216"

        def __init__(self, **fields: Unpack[PictureFields]) -> None: ...

    def explicit_values(self) -> dict[str, Any]:
        """The fields that are set here, with their values."""
        values = self.__dict__  # a million rows are asked
        return {name: values[name] for name in self.model_fields_set}


class Row(Options):
    """A row as the user writes it."""

    prompt: Prompt = Field(description="What to paint.")
    custom_id: CustomId | None = Field(None, description="Yours, unique in the batch; by default `row-<line>`.")
    metadata: Metadata = Field(default_factory=dict, max_length=64, description="Flat; comes back with the result.")

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            prompt: str,
            custom_id: str | None = None,
            metadata: Mapping[str, str | int | float | bool | None] = ...,
            **fields: Unpack[PictureFields],
        ) -> None: ...


class ResolvedRow(Versioned, Picture):
    """A row with everything decided: what a retry, another layout or a replay renders is what this says."""

    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION
    row: int = Field(ge=0, lt=MAX_IMAGES_OF_BATCH, description="Position in the prompt set, from 0.")
    first_image: int = Field(
        ge=0, lt=MAX_IMAGES_OF_BATCH, description="Position of its first image among all images of the batch."
    )
    custom_id: str
    seed: int
    num_images: int = Field(ge=1, le=MAX_IMAGES_PER_ROW)

    @classmethod
    def of_checked(cls, values: dict[str, Any]) -> Self:
        """The row of values as `resolve` decides them: of their fields' types, within their bounds, and `in_order`.

        It keeps `values`. Nothing is validated again, which would take a tenth of the time of a million rows.
        """
        row = cls.__new__(cls)
        put = object.__setattr__  # it is frozen
        put(row, "__dict__", values)
        put(row, "__pydantic_fields_set__", set(_FIELDS))
        put(row, "__pydantic_extra__", {})
        put(row, "__pydantic_private__", None)
        return row


_FIELDS = tuple(ResolvedRow.model_fields)


def in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a resolved row in their order, from values that have them all; others are left out."""
    return {name: values[name] for name in _FIELDS}


def derived_seed(batch_seed: int, custom_id: str) -> int:
    """The seed of a row that names none, below 2^32: it follows from batch seed and row id, not from its place."""
    return int.from_bytes(hashlib.sha256(f"{batch_seed}:{custom_id}".encode()).digest()[:4], "big")
