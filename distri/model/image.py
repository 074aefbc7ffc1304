"""One image as it is asked for, and as it was made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from distri.model.adapters.lora import Lora
from distri.model.control.controlnets import ControlNet
from distri.model.passes.stages import Highres, Stage, Start
from distri.model.reference.references import ReferencePicture
from distri.model.sampling.schedulers import ETA, Schedule
from distri.model.text.prompts import LongPrompt
from distri.model.text.weighted_prompt import Prompt

SMALLEST_SIDE_PX = 64

Pixels = npt.NDArray[np.uint8]

SettingValue = bool | int | float | str


class Fit(StrEnum):
    """How a picture comes to another shape: the part of the world outside is cut off, continued, or distorted."""

    FILL = "fill"
    FIT = "fit"
    STRETCH = "stretch"


@dataclass(frozen=True)
class Inpaint:
    """What of a picture is painted anew.

    Attributes:
        grow: pixels of the picture by which the mask is larger on all sides.
        feather: pixels around it over which the new picture passes into the old one; 0 is a sharp edge.
        region: left, top, right and bottom of the part that is rendered, and pasted into the rest; None is all of it.
        mask: uint8, height x width of the picture, at least 128 where it is painted anew, equal on all ranks of a
            replica; None as long as it is not read.
        rounds: in how many it is filled in the first pass, where the prediction is most certain first; 1 is at once.
    """

    grow: int = 0
    feather: int = 0
    region: tuple[int, int, int, int] | None = None
    mask: Pixels | None = field(default=None, compare=False, repr=False)
    rounds: int = 1


@dataclass(frozen=True)
class StartPicture:
    """A picture that rendering begins with.

    Attributes:
        width, height: of it, in pixels.
        strength: share of the schedule that is walked from it, above 0 and at most 1.
        fit: how it comes to the shape of the image.
        pixels: uint8, height x width x 3, equal on all ranks of a replica; None as long as they are not read.
        inpaint: what of it is painted anew; None is all of it. Of a region that is rendered alone, the image's size is
            the one in which it is rendered; what comes out has the picture's.
    """

    width: int
    height: int
    strength: float
    fit: Fit = Fit.FILL
    pixels: Pixels | None = field(default=None, compare=False, repr=False)
    inpaint: Inpaint | None = None

    @property
    def start(self) -> Start:
        """As far as passes follow from it."""
        if self.inpaint is None or self.inpaint.region is None:
            return Start(self.width, self.height, self.strength)
        left, top, right, bottom = self.inpaint.region
        return Start(right - left, bottom - top, self.strength)


@dataclass(frozen=True)
class ControlPicture:
    """A picture that a control network steers the image by.

    Attributes:
        network: that reads it.
        scale: what all that it adds is multiplied with.
        start, end: shares of each pass's evaluations between which it does.
        fit: how the picture comes to the shape of the image.
        mode: what the picture is, for a ControlNet-Union, which several may be for, at the same times.
        pixels: uint8, height x width x 3, equal on all ranks of a replica; None as long as they are not read.
    """

    network: ControlNet
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    fit: Fit = Fit.FILL
    mode: int | None = None
    pixels: Pixels | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ImageSpec:
    """One image to render.

    Attributes:
        prompt: a literal text, or one with weights.
        negative_prompt: None is no negative prompt (zeroed embeddings), "" is the encoded empty text.
        seed: of the image's own generator; later passes have seeds that follow from it.
        width, height: pixels, any number from 64. What is no multiple of 8 is rendered on the next larger canvas.
        steps: of the scheduler.
        guidance_scale: at most 1 switches guidance off.
        guidance_rescale: 0 to 1.
        guidance_interval: the shares of the schedule between which there is guidance; outside it the negative half is
            not evaluated.
        prompt_2, negative_prompt_2: for the second encoder; None is the same as for the first.
        long_prompt: what becomes of texts of more tokens than the encoders read at once.
        clip_skip: which layer of both encoders is read, counted from the last, which is 1; SDXL was trained with 2.
        scheduler: a diffusers class name; None is the model's own.
        scheduler_settings: what differs from the model's own settings, by the class's parameters; `eta` beside them.
        timesteps, sigmas: one per step, falling, instead of the scheduler's own; sigmas without the last one, 0.
        loras: fused into the model for this image.
        highres: how to render above the model's native size.
        picture: what rendering begins with; None is noise.
        control: what steers it; several add up.
        references: pictures that it shall resemble, read by IP-Adapters; the refiner does not see them.
        refiner_switch_at: share of the schedule after which the refiner takes over, above 0 and below 1; None is
            without it.
        original_size, target_size: height and width that the model is conditioned on; None is the requested size in
            the last pass, and the pass's own size in those before.
        crop: top and left that the model is conditioned on.
        negative_original_size, negative_crop, negative_target_size: the same for the negative half. If none of them
            is set, it gets those of the other half; a size of None is that of the other half.
    """

    prompt: Prompt
    negative_prompt: Prompt | None
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    prompt_2: Prompt | None = None
    negative_prompt_2: Prompt | None = None
    long_prompt: LongPrompt = LongPrompt.ERROR
    clip_skip: int = 2
    scheduler: str | None = None
    scheduler_settings: Mapping[str, SettingValue] = field(default_factory=dict)
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    loras: tuple[Lora, ...] = ()
    highres: Highres = field(default_factory=Highres)
    picture: StartPicture | None = None
    control: tuple[ControlPicture, ...] = ()
    references: tuple[ReferencePicture, ...] = ()
    refiner_switch_at: float | None = None
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crop: tuple[int, int] = (0, 0)
    negative_target_size: tuple[int, int] | None = None

    @property
    def schedule(self) -> Schedule:
        """What its walk takes beside the scheduler's own settings."""
        return Schedule(float(self.scheduler_settings.get(ETA, 0.0)), self.timesteps, self.sigmas)

    def time_ids(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The six numbers of micro-conditioning, in a pass of this height and width."""
        return (*(self.original_size or size), *self.crop, *(self.target_size or size))

    def negative_time_ids(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Those of the negative half."""
        if not (self.negative_original_size or self.negative_target_size or any(self.negative_crop)):
            return self.time_ids(size)
        return (
            *(self.negative_original_size or self.original_size or size),
            *self.negative_crop,
            *(self.negative_target_size or self.target_size or size),
        )


@dataclass(frozen=True)
class Evaluations:
    """How many evaluations of the UNet were of which phase."""

    synchronous: int
    displaced: int

    def __add__(self, other: "Evaluations") -> "Evaluations":
        return Evaluations(self.synchronous + other.synchronous, self.displaced + other.displaced)


@dataclass(frozen=True)
class Rendered:
    """One image, and what it took on this rank.

    Attributes:
        pixels: uint8, height x width x 3, on the leader of the replica; None elsewhere. Where a part of a picture was
            painted anew, with the rest of it around.
        encode_s, denoise_s, decode_s: wall time in seconds; of an evaluation of several images, an equal share. Between
            two passes, decoding and encoding again count as decoding.
        evaluations: of the UNet.
        others: most images that were evaluated together with it at a time.
        bytes_sent: by this rank; of an evaluation of several images, an equal share.
        finite: whether latent and decoded image are; equal on all ranks of the replica.
        blank: whether all pixels are about equal; equal on all ranks of the replica.
        stages: the passes.
        canvas: width and height of the last pass, if they are not those of the image.
        crop: left and top, in pixels, of the image on the canvas.
        left_out: by field, the end of a text that was truncated.
        warnings: what the user should know.
        repairs: what was done again, and why.
    """

    pixels: npt.NDArray[np.uint8] | None
    encode_s: float
    denoise_s: float
    decode_s: float
    evaluations: Evaluations
    others: int
    bytes_sent: int
    finite: bool
    blank: bool
    stages: tuple[Stage, ...]
    canvas: tuple[int, int] | None
    crop: tuple[int, int]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    repairs: tuple[str, ...]
