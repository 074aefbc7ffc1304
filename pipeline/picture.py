"""What may be asked of a picture, and what is known of it once it is made: plain values, no torch."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import partial
from operator import eq, is_, not_
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from pipeline.input_picture import MAX_SIDE_PX, AdapterReference, Control, Fit, Inpainting, InputPicture
from pipeline.stored import Record

IS_NONE = partial(is_, None)  # asked of many fields of a million rows: no frame of Python's for each

SettingValue = bool | int | float | str

MAX_STEPS = 1_000
WHOLE_SCHEDULE = (0.0, 1.0)
CLIP_SKIP, MAX_CLIP_SKIP = 2, 12  # SDXL's own layer, and the layers of its smaller text encoder


class _Plain(Record):
    model_config = ConfigDict(extra="forbid")


class LongPrompt(StrEnum):
    """What to do with a text of more tokens than the encoders read at once (77 with CLIP, two of them marks)."""

    CHUNK = "chunk"  # encode it in pieces and put their embeddings one behind the other
    TRUNCATE = "truncate"  # leave out what does not fit; the result says what
    ERROR = "error"  # fail the image as E_PROMPT_TOO_LONG


class Syntax(StrEnum):
    """How the brackets of a prompt are read: as the program does that it was written for."""

    NONE = "none"  # they are letters
    A1111 = "a1111"  # A1111's web UI, Forge, SD.Next
    COMFY = "comfy"  # ComfyUI
    COMPEL = "compel"  # the library for diffusers, and InvokeAI


class Scheduler(_Plain):
    """A diffusers scheduler: its class and what differs from the model's own settings."""

    name: str = Field(description="Diffusers class name.")
    settings: dict[str, SettingValue] = Field(default_factory=dict)

    def __hash__(self) -> int:
        """Rows that agree in it are decided together."""
        return hash((self.name, *sorted(self.settings.items())))


LoraScale = Annotated[float, Field(ge=-4, le=4)]
_BLOCK = re.compile(
    r"BASE|M00|(IN|OUT)\d\d|text_encoder(_2)?"
    r"|(down_blocks|mid_block|up_blocks|conv_in|conv_norm_out|conv_out|time_embedding|add_embedding)(\.\w{1,40}){0,12}"
)


def _block(name: str) -> str:
    if not _BLOCK.fullmatch(name):
        wanted = "BASE, IN04, M00, OUT03, or a part of the networks as up_blocks.0.attentions.1 or text_encoder_2"
        raise ValueError(f"{name[:80]!r} found; a block wanted: {wanted}")
    return name


LoraBlock = Annotated[str, AfterValidator(_block)]


class Lora(_Plain):
    """One LoRA of a row; several are added up."""

    name: str = Field(description="Id on the deployment's allow-list.")
    scale: LoraScale = 1.0
    text_scale: LoraScale | None = Field(
        None, exclude_if=lambda value: value is None, description="For the text encoders; None: `scale`, as the UNet."
    )
    blocks: dict[LoraBlock, LoraScale] = Field(
        default_factory=dict,
        max_length=200,
        exclude_if=lambda value: not value,
        description="By block, what the scale is multiplied with there; 1 where nothing is said.",
    )

    def __hash__(self) -> int:
        """Rows of equal LoRAs are rendered together."""
        return hash((self.name, self.scale, self.text_scale, *sorted(self.blocks.items())))


class HighresMode(StrEnum):
    """How a picture larger than the model's native size is made."""

    DIRECT = "direct"  # in one pass: large shapes may repeat
    REFINE = "refine"  # small first, then enlarged and denoised again with low strength


class Highres(_Plain):
    """How a large picture is made, decided."""

    mode: HighresMode = HighresMode.DIRECT
    strength: float = Field(0.3, gt=0, le=1, description="Of each later pass: the share of the schedule it runs.")
    steps: int | None = Field(None, ge=1, le=1000, description="Schedule length of later passes; None: as the first.")
    base_px: int | None = Field(
        None, ge=64, le=4096, description="Side of a square with the first pass's area; None: the model's native size."
    )


class Cascade(_Plain):
    """Of a picture whose early evaluations are those of smaller ones, on one trajectory."""

    switch_at: float = Field(0.6, ge=0, lt=1, description="Share of the schedule after which its own size begins.")
    base_px: int | None = Field(
        None, ge=64, le=4096, description="Side of a square with about the first area; None: the model's native size."
    )
    guidance_scale: float | None = Field(
        None, exclude_if=IS_NONE, description="In all sizes but the smallest; None: as in that; up to 1 is off."
    )


class HighresAttention(StrEnum):
    """What self-attention sees in the later passes of a refined picture."""

    WHOLE = "whole"  # the whole picture
    WINDOWS = "windows"  # what lies around, as far as the model's native size


class Enlargement(StrEnum):
    """What is enlarged between two passes of `refine`."""

    PIXELS = "pixels"  # the decoded picture, encoded again
    LATENTS = "latents"  # the latent itself
    FREQUENCIES = "frequencies"  # low frequencies of the enlarged latent, high ones of the enlarged picture


class LaterPasses(_Plain):
    """What differs in the later passes of `refine`, decided."""

    window_px: int | None = Field(
        None, ge=64, le=MAX_SIDE_PX, description="Side of the windows that self-attention sees; None: the whole."
    )
    guidance_scale: float | None = Field(None, description="None: as in the first pass; up to 1 is off.")
    enlargement: Enlargement = Enlargement.PIXELS


AS_THE_FIRST = LaterPasses()


class NormMode(StrEnum):
    """Where GroupNorm's statistics come from in a displaced evaluation."""

    CORRECTED = "corrected"  # stale ones of the whole image, moved by the rank's own drift
    STALE = "stale"  # the rank's own fresh, the others' stale
    SYNCHRONOUS = "synchronous"  # gathered fresh, which waits
    LOCAL = "local"  # the rank's own alone


class Conditioning(_Plain):
    """SDXL's micro-conditioning: what the model is told about size and crop. None: as the picture itself."""

    original_size: tuple[int, int] | None = Field(None, description="Width and height in px.")
    crop: tuple[int, int] = Field((0, 0), description="Left and top in px.")
    target_size: tuple[int, int] | None = Field(None, description="Width and height in px.")
    negative_original_size: tuple[int, int] | None = None
    negative_crop: tuple[int, int] = (0, 0)
    negative_target_size: tuple[int, int] | None = None


class Format(StrEnum):
    """Of the file."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class File(_Plain):
    """How the file is written."""

    format: Format = Format.PNG
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    dpi: Annotated[int, Field(ge=1, le=2400)] = 300
    strip_metadata: bool = Field(False, description="Nothing about the picture in the file; the sidecar keeps it.")


class Picture(Record):
    """All that decides a picture but its seed; rows and results share it."""

    prompt: str
    prompt_2: str | None = Field(None, description="For the second encoder; None: the prompt itself.")
    negative_prompt: str | None = Field(description='None: zeroed embeddings; "": the encoded empty text.')
    negative_prompt_2: str | None = Field(None, description="For the second encoder; None: the negative prompt itself.")
    long_prompt: LongPrompt = LongPrompt.ERROR
    width: int = Field(ge=1, le=MAX_SIDE_PX)
    height: int = Field(ge=1, le=MAX_SIDE_PX)
    steps: int = Field(ge=1, le=MAX_STEPS)
    guidance_scale: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] = Field(
        WHOLE_SCHEDULE,
        exclude_if=partial(eq, WHOLE_SCHEDULE),
        description="Shares of the schedule between which there is guidance.",
    )
    scheduler: Scheduler | None = Field(None, description="None: the model's own.")
    timesteps: tuple[float, ...] | None = Field(
        None, exclude_if=IS_NONE, description="One per step, falling; None: the scheduler's own."
    )
    sigmas: tuple[float, ...] | None = Field(
        None,
        exclude_if=IS_NONE,
        description="The same in sigmas, without the last one, which is 0.",
    )
    model: str
    loras: tuple[Lora, ...] = ()
    syntax: Syntax | None = Field(
        None, exclude_if=IS_NONE, description="How its prompts are read; None: as literal text."
    )
    embeddings: tuple[str, ...] = Field((), exclude_if=not_, description="Ids of those that its prompts name.")
    clip_skip: int = Field(
        CLIP_SKIP,
        ge=1,
        le=MAX_CLIP_SKIP,
        exclude_if=partial(eq, CLIP_SKIP),
        description="Which layer of the text encoders is read, counted from the last, which is 1.",
    )
    highres: Highres = Highres()
    # Beside `highres`, which earlier versions read strictly.
    later_passes: LaterPasses = Field(
        AS_THE_FIRST,
        exclude_if=lambda value: value is AS_THE_FIRST or value == AS_THE_FIRST,  # most are; models compare slowly
        description="Of `refine`; none of them is the first.",
    )
    cascade: Cascade | None = Field(None, exclude_if=IS_NONE, description="None: all passes have their own schedules.")
    resync: float | None = Field(None, gt=0, exclude_if=IS_NONE, description="None: as the deployment has it.")
    norm_mode: NormMode | None = Field(None, exclude_if=IS_NONE)
    most_work: float | None = Field(None, ge=1, exclude_if=IS_NONE)
    settling_steps: int | None = Field(None, ge=0, exclude_if=IS_NONE)
    image: InputPicture | None = Field(None, exclude_if=IS_NONE, description="Begun with; None: with noise alone.")
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        exclude_if=IS_NONE,
        description="Share of the schedule that is walked from the picture; None: there is none.",
    )
    fit: Fit | None = Field(None, exclude_if=IS_NONE, description="How the picture comes to this shape.")
    inpaint: Inpainting | None = Field(
        None,
        exclude_if=IS_NONE,
        description="What of the picture is painted anew; None: all of it.",
    )
    control: tuple[Control, ...] = Field((), exclude_if=not_, description="What steers it; several add up.")
    reference: tuple[AdapterReference, ...] = Field((), exclude_if=not_, description="What it resembles; adds up.")
    refiner_switch_at: float | None = Field(
        None,
        gt=0,
        lt=1,
        exclude_if=IS_NONE,
        description="Share of the schedule after which the model's refiner takes over; None: it has none.",
    )
    conditioning: Conditioning = Conditioning()
    file: File = File()
    metadata: dict[str, str | int | float | bool | None]

    @property
    def inputs(self) -> tuple[InputPicture, ...]:
        """The pictures that it is made of: what it begins with, the mask, what steers it, what it resembles."""
        begins = () if self.image is None else (self.image,)
        masks = () if self.inpaint is None else (self.inpaint.mask,)
        if not (self.control or self.reference):  # a million rows are asked
            return (*begins, *masks)
        references = (picture for one in self.reference for picture in one.inputs)
        return (*begins, *masks, *(one.image for one in self.control), *references)


class Stage(_Plain):
    """One pass that was rendered."""

    width: int
    height: int
    steps: int
    strength: float = 1.0
    seed: int


class RenderDetails(_Plain):
    """What only rendering shows about a picture."""

    canvas: tuple[int, int] | None = Field(None, description="Width and height in px before cropping; None: as asked.")
    crop: tuple[int, int] = Field((0, 0), description="Left and top in px of the picture on its canvas.")
    stages: tuple[Stage, ...] = Field((), description="The passes; empty: one, as asked.")
    truncated: dict[str, str] = Field(default_factory=dict, description="By field, the text that was left out.")
    warnings: tuple[str, ...] = ()
    repairs: tuple[str, ...] = Field((), description="What was done again, and why.")
