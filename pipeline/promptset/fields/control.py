"""Control networks as a row names them, and as a text may: `canny, image=house.png, scale=0.7; depth, image=d.png`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.input_picture import MAX_CONTROL_SCALE, MAX_MODES, Fit, Preprocess
from pipeline.promptset.fields.named_objects import NamedObjects
from pipeline.promptset.fields.shorthand import shortened
from pipeline.promptset.fields.values import InputReference, lower

MAX_CONTROLS = 8
_CONTROLS = NamedObjects(
    name="model",
    numbers=("scale", "start", "end"),
    others={
        "controlnet": "model",
        "name": "model",
        "weight": "scale",
        "strength": "scale",
        "conditioning_scale": "scale",
        "control_guidance_start": "start",
        "guidance_start": "start",
        "start_percent": "start",
        "control_guidance_end": "end",
        "guidance_end": "end",
        "end_percent": "end",
        "control_image": "image",
        "processor": "preprocess",
        "module": "preprocess",
        "control_mode": "mode",
        "control_type": "mode",
        "type": "mode",
    },
    most=MAX_CONTROLS,
)

# What pictures are to a ControlNet-Union, by the numbers that it was trained with; the last two have eight kinds.
MODES = {
    "openpose": 0,
    "depth": 1,
    "scribble": 2,
    "canny": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}
_OTHER_MODES = {
    **dict.fromkeys(("pose", "dwpose"), "openpose"),
    **dict.fromkeys(("hed", "pidi", "softedge", "soft edge", "ted"), "scribble"),
    **dict.fromkeys(("lineart", "anime_lineart", "mlsd", "hard edge"), "canny"),
    **dict.fromkeys(("normalmap", "normal map"), "normal"),
    **dict.fromkeys(("seg", "segmentation"), "segment"),
    "inpaint": "repaint",
}


def _mode(value: object) -> object:
    """A number, of a number or of a name. Raises ValueError."""
    if not isinstance(value, str):
        return value
    name = value.strip().lower()
    if name.isdecimal():
        return int(name[:9])
    if (number := MODES.get(_OTHER_MODES.get(name, name))) is None:
        raise ValueError(f"{shortened(value)} found; {', '.join(MODES)} or its number wanted")
    return number


class WantedControl(BaseModel):
    """A control network of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    model: str = Field(strict=True, min_length=1, max_length=256)
    image: InputReference
    preprocess: Annotated[Preprocess, BeforeValidator(lower)] = Preprocess.NONE
    fit: Annotated[Fit, BeforeValidator(lower)] | None = None
    scale: float = Field(1.0, strict=True, gt=0, le=MAX_CONTROL_SCALE)
    start: float = Field(0.0, strict=True, ge=0, lt=1)
    end: float = Field(1.0, strict=True, gt=0, le=1)
    mode: Annotated[Annotated[int, Field(strict=True, ge=0, lt=MAX_MODES)] | None, BeforeValidator(_mode)] = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start {self.start:g} and end {self.end:g} found; a start before the end wanted")
        return self


Controls = Annotated[tuple[WantedControl, ...], BeforeValidator(_CONTROLS.read), Field(max_length=MAX_CONTROLS)]
