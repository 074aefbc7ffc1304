"""Pictures that variations begin with, fill, resemble or are steered by: the renderer's, of the prompts' own scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, ImageSpec, Inpaint, StartPicture
from distri.model.reference.ip_adapter import IPAdapter
from distri.model.reference.references import ReferencePicture
from distri.run.preprocessors import canny
from training.paint import painted
from training.scenes import drawn_held_out

DEMONSTRATORS = Path(__file__).parents[2] / "models"
STRENGTH = 0.6

Pixels = npt.NDArray[np.uint8]


class Input(StrEnum):
    """How a picture goes into a variation's images."""

    NONE = "none"
    START = "img2img"
    FILLED = "inpainting"
    CONTROL = "control"
    REFERENCE = "reference"


def given(image: ImageSpec, number: int, kind: Input) -> ImageSpec:
    """An image of prompt `number` with its picture.

    It begins with the next prompt's picture; its own one is filled, gives edges or is resembled.
    """
    return image if kind is Input.NONE else _GIVEN[kind](image, number)


def judged(pixels: Pixels, kind: Input) -> Pixels:
    """What of a picture, height x width x 3, the engine has painted."""
    return pixels[:, pixels.shape[1] // 2 :] if kind is Input.FILLED else pixels


def _begun(image: ImageSpec, number: int) -> ImageSpec:
    return replace(image, picture=StartPicture(image.width, image.height, STRENGTH, pixels=_picture(image, number + 1)))


def _filled(image: ImageSpec, number: int) -> ImageSpec:
    mask = np.zeros((image.height, image.width), np.uint8)
    judged(mask, Input.FILLED)[:] = 255
    picture = StartPicture(image.width, image.height, 1.0, pixels=_picture(image, number), inpaint=Inpaint(mask=mask))
    return replace(image, picture=picture)


def _steered(image: ImageSpec, number: int) -> ImageSpec:
    network = ControlNet(DEMONSTRATORS / "canny" / "diffusion_pytorch_model.safetensors")
    return replace(image, control=(ControlPicture(network, pixels=canny(_picture(image, number))),))


def _referring(image: ImageSpec, number: int) -> ImageSpec:
    folder = DEMONSTRATORS / "scene"
    adapter = IPAdapter(folder / "ip-adapter.safetensors", folder / "image_encoder")
    return replace(image, references=(ReferencePicture(adapter, f"{number:064x}", pixels=_picture(image, number)),))


def _picture(image: ImageSpec, number: int) -> Pixels:
    return painted(drawn_held_out(number), image.width, image.height)


_GIVEN: Mapping[Input, Callable[[ImageSpec, int], ImageSpec]] = {
    Input.START: _begun,
    Input.FILLED: _filled,
    Input.CONTROL: _steered,
    Input.REFERENCE: _referring,
}
