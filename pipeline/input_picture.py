"""Pictures that rows begin with, and what of them is painted anew, as records say it: plain values, no torch."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from operator import eq
from typing import Annotated

from pydantic import ConfigDict, Field

from pipeline.stored import Record

MAX_SIDE_PX = 16_384
MAX_CONTROL_SCALE = 10.0
MAX_REFERENCE_SCALE = 10.0
MAX_MASK_ROUNDS = 16
_EVALUATIONS_A_ROUND = 4 * 4
MAX_MODES = 64  # of a ControlNet-Union; there are ones of 6 and of 8
MAX_EDGE_PX = 512  # by which a mask may grow, and over which it may fade


class _Plain(Record):
    model_config = ConfigDict(extra="forbid")


class Fit(StrEnum):
    """How a picture to begin with comes to another shape."""

    FILL = "fill"  # it covers the size; what is left over is cut off evenly on both sides
    FIT = "fit"  # all of it is there; what is missing at two sides continues its border
    STRETCH = "stretch"  # both sides on their own


class InputPicture(_Plain):
    """A picture that rendering begins with: it lies beside the batch's rows, a PNG of 8-bit sRGB."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    width: int = Field(ge=1, le=MAX_SIDE_PX)
    height: int = Field(ge=1, le=MAX_SIDE_PX)
    name: str = Field("", description="Of the file as the row had it, without its folder.")

    @property
    def mode(self) -> str:
        """Of the PNG, as Pillow names it."""
        return "RGB"


class InputMask(InputPicture):
    """What of a picture is painted anew: a PNG of its size, of 8-bit grey, white there and black elsewhere."""

    box: tuple[int, int, int, int] = Field(description="Left, top, right and bottom in px of what is white.")

    @property
    def mode(self) -> str:
        """Of the PNG, as Pillow names it."""
        return "L"


class Preprocess(StrEnum):
    """What is made of a picture before a control network sees it."""

    NONE = "none"  # it is the map that the network was trained on already
    CANNY = "canny"  # its edges, white on black
    GREY = "grey"  # without its colours
    BLUR = "blur"  # without its details
    TILE = "tile"  # the same by way of an eighth of its size


class ControlKind(StrEnum):
    """Of a network that steers pictures."""

    CONTROLNET = "controlnet"  # half a UNet, asked at each evaluation
    UNION = "controlnet-union"  # the same for several kinds of pictures, and for several at once
    T2I_ADAPTER = "t2i-adapter"  # features of the picture, computed once a pass


_CONTROLNET = ControlKind.CONTROLNET


class Control(_Plain):
    """A control network of a row, and the picture that it steers by."""

    model: str = Field(description="Id on the deployment's allow-list.")
    image: InputPicture
    preprocess: Preprocess = Preprocess.NONE
    fit: Fit = Field(Fit.FILL, description="How the picture comes to the row's shape.")
    scale: float = Field(
        1.0, gt=0, le=MAX_CONTROL_SCALE, description="What all that the network adds is multiplied with."
    )
    start: float = Field(0.0, ge=0, lt=1, description="Share of each pass's steps after which it steers.")
    end: float = Field(1.0, gt=0, le=1, description="Share of each pass's steps until which it does.")
    kind: ControlKind = Field(
        ControlKind.CONTROLNET,
        exclude_if=lambda value: value is _CONTROLNET,
        description="Of the network, where the deployment says it; it decides nothing but the work that is counted.",
    )
    mode: int | None = Field(
        None,
        ge=0,
        lt=MAX_MODES,
        exclude_if=lambda value: value is None,
        description="What the picture is, for a ControlNet-Union, by number.",
    )


class AdapterReference(_Plain):
    """A picture that a row's picture shall resemble, and the IP-Adapter that reads it."""

    adapter: str = Field(description="Id on the deployment's allow-list.")
    image: InputPicture
    scale: float = Field(
        1.0, gt=0, le=MAX_REFERENCE_SCALE, description="What its part of attention is multiplied with."
    )
    mask: InputMask | None = Field(
        None, exclude_if=lambda value: value is None, description="Where it counts; None: everywhere."
    )

    @property
    def inputs(self) -> tuple[InputPicture, ...]:
        """It and its mask."""
        return (self.image,) if self.mask is None else (self.image, self.mask)


class Region(_Plain):
    """The part of a picture that is rendered alone, and pasted into the rest."""

    left: int = Field(ge=0, le=MAX_SIDE_PX)
    top: int = Field(ge=0, le=MAX_SIDE_PX)
    width: int = Field(ge=1, le=MAX_SIDE_PX)
    height: int = Field(ge=1, le=MAX_SIDE_PX)
    rendered: tuple[int, int] = Field(description="Width and height in px in which it is rendered.")
    padding: int = Field(ge=0, le=MAX_SIDE_PX, description="Pixels around the mask that were asked for.")


class Inpainting(_Plain):
    """What of a picture is painted anew, decided."""

    mask: InputMask
    grow: int = Field(0, ge=0, le=MAX_EDGE_PX, description="Pixels by which the mask is larger on all sides.")
    feather: int = Field(0, ge=0, le=MAX_EDGE_PX, description="Pixels around it over which new passes into old.")
    region: Region | None = Field(None, description="Rendered alone; None: the whole picture.")
    rounds: int = Field(
        1,
        ge=1,
        le=MAX_MASK_ROUNDS,
        exclude_if=partial(eq, 1),
        description="In which it is filled, the part that is most certain first; 1: at once.",
    )

    @property
    def probing_evaluations(self) -> int:
        """Of all rounds but the last, which show what is certain (distri/sampling/certainty.py; a test compares)."""
        return (self.rounds - 1) * _EVALUATIONS_A_ROUND
