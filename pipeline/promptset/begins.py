"""What a row that begins with a picture leaves open: strength, fit, passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.deployment.cost import LARGEST_STEP
from pipeline.picture import Fit, Highres, HighresMode, InputPicture
from pipeline.promptset.sizes import UNIT_PX

# In the middle between a picture that is only cleaned up, and one that keeps no more than its colours.
DEFAULT_STRENGTH = 0.6

_OF_IMAGE = ("strength", "fit")


def begin(
    of_row: Mapping[str, Any], values: Mapping[str, Any], picture: InputPicture | None, width: int, height: int
) -> dict[str, Any]:
    """Image, strength and fit as a resolved row has them. Raises ValueError with (field, message)."""
    if picture is None:
        if given := [name for name in _OF_IMAGE if of_row.get(name) is not None]:
            raise ValueError(given[0], "given without an image to begin with; an image wanted beside it")
        return {"image": None, "strength": None, "fit": None}
    strength = DEFAULT_STRENGTH if values["strength"] is None else values["strength"]
    if strength * values["steps"] < 1:
        raise ValueError(
            "strength", f"{strength:g} of {values['steps']} steps is less than one step; more of either wanted"
        )
    fit: Fit | None = values["fit"]
    if fit is None and not _of_one_shape(picture, width, height):
        raise ValueError(
            "fit",
            f"the image has {picture.width}x{picture.height} pixels, and the picture shall have {width}x{height}: fill "
            "(cut off what is left over), fit (continue the border) or stretch wanted",
        )
    return {"image": picture, "strength": strength, "fit": fit or Fit.FILL}


def passes_from(picture: InputPicture, wish: Mapping[str, Any], steps: int, size: tuple[int, int]) -> Highres:
    """How a picture becomes a larger one.

    One pass enlarges by `LARGEST_STEP` at most, so `auto` is several where that is not enough; each after the first has
    the strength of highres. Raises ValueError with (field, message).
    """
    if "base_px" in wish:
        raise ValueError("highres", "base_px given beside an image, whose size it is that passes begin with")
    growth = math.sqrt(size[0] * size[1] / (picture.width * picture.height))
    if wish.get("mode") == "direct" or growth <= LARGEST_STEP:
        return Highres()
    refine = Highres(mode=HighresMode.REFINE, **{name: wish[name] for name in ("strength", "steps") if name in wish})
    if (refine.steps or steps) * refine.strength < 1:
        raise ValueError(
            "highres",
            f"strength {refine.strength:g} of {refine.steps or steps} steps is less than one step; more wanted",
        )
    return refine


def _of_one_shape(picture: InputPicture, width: int, height: int) -> bool:
    """Whether no more than a latent pixel would be cut off if the picture covered the size."""
    scale = max(width / picture.width, height / picture.height)
    return picture.width * scale - width <= UNIT_PX and picture.height * scale - height <= UNIT_PX
