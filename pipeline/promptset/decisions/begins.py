"""What a row that begins with a picture leaves open: strength, fit, what of it is painted anew, passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.deployment.allowed import AllowedModel
from pipeline.deployment.cost import LARGEST_STEP
from pipeline.input_picture import Fit, Inpainting, InputMask, InputPicture
from pipeline.picture import Highres, HighresMode
from pipeline.promptset.decisions.regions import region_of
from pipeline.promptset.decisions.sizes import UNIT_PX

# In the middle between a picture that is only cleaned up, and one that keeps no more than its colours.
DEFAULT_STRENGTH = 0.6
# What is masked is painted anew.
MASKED_STRENGTH = 1.0

OF_MASK = ("mask_grow", "mask_feather", "mask_rounds", "only_masked")
OF_REGION = ("mask_padding", "masked_size")
OF_IMAGE = ("strength", "fit", "mask", "canvas", *OF_MASK, *OF_REGION)
_OF_IMAGE = frozenset(OF_IMAGE)  # a million rows are asked
_SAYS_NOTHING = (None, False)


@dataclass(frozen=True)
class Begun:
    """What a row begins with, as it was read: a picture, and what of it is masked."""

    picture: InputPicture
    mask: InputMask | None = None


class MadeOf(NamedTuple):
    """The pictures that a row is made of, as they were read; a tuple, since a million rows are looked up by it.

    Attributes:
        begun: what it begins with.
        steering: what the images of its control are, in their order.
        resembled: what the images and masks of its references are, in their order.
    """

    begun: Begun | None = None
    steering: tuple[InputPicture, ...] = ()
    resembled: tuple[tuple[InputPicture, InputMask | None], ...] = ()


OF_NOTHING = MadeOf()


def begin(
    of_row: Mapping[str, Any],
    values: Mapping[str, Any],
    begun: Begun | None,
    size: tuple[int, int],
    native_px: int,
) -> dict[str, Any]:
    """Image, strength, fit and inpainting as a resolved row has them. Raises ValueError with (field, message)."""
    if begun is None:
        if not _OF_IMAGE.isdisjoint(of_row) and (given := asking(OF_IMAGE, of_row)):
            raise ValueError(given[0], "given without an image to begin with; an image wanted beside it")
        return {"image": None, "strength": None, "fit": None, "inpaint": None}
    picture, (width, height) = begun.picture, size
    by_default = DEFAULT_STRENGTH if begun.mask is None else MASKED_STRENGTH
    strength = by_default if values["strength"] is None else values["strength"]
    if strength * values["steps"] < 1:
        raise ValueError(
            "strength", f"{strength:g} of {values['steps']} steps is less than one step; more of either wanted"
        )
    fit: Fit | None = values["fit"]
    if fit is None and not of_one_shape(picture, width, height):
        raise ValueError(
            "fit",
            f"the image has {picture.width}x{picture.height} pixels, and the picture shall have {width}x{height}: fill "
            "(cut off what is left over), fit (continue the border) or stretch wanted",
        )
    inpaint = _inpainting(of_row, values, begun, size, native_px)
    return {"image": picture, "strength": strength, "fit": fit or Fit.FILL, "inpaint": inpaint}


def check_masked(model: str, allowed: AllowedModel, begins: Mapping[str, Any]) -> None:
    """Refuse a row that masks nothing for a model that paints what is masked alone. ValueError of (field, message)."""
    painted = begins["inpaint"]
    if allowed.inpainting and painted is not None and painted.rounds > 1:
        raise ValueError("mask_rounds", f"found, and the model {model!r} sees what is known by itself; 1 wanted")
    if allowed.inpainting and painted is None:
        field = "image" if begins["image"] is None else "mask"
        wanted = "an image and its mask" if field == "image" else "a mask or a canvas beside the image"
        raise ValueError(field, f"none found, and the model {model!r} fills masks alone; {wanted} wanted")


def _inpainting(
    of_row: Mapping[str, Any], values: Mapping[str, Any], begun: Begun, size: tuple[int, int], native_px: int
) -> Inpainting | None:
    """What of the picture is painted anew. Raises ValueError with (field, message)."""
    if begun.mask is None:
        if given := asking((*OF_MASK, *OF_REGION), of_row):
            raise ValueError(given[0], "given without a mask; a mask or a canvas wanted beside it")
        return None
    edge, rounds = {"grow": values["mask_grow"], "feather": values["mask_feather"]}, values["mask_rounds"]
    if rounds > 1 and values["strength"] is not None and values["strength"] < 1:
        raise ValueError(
            "mask_rounds",
            f"{rounds} found beside strength {values['strength']:g}; what is filled in rounds begins with noise, so "
            "strength 1 wanted",
        )
    painted = Inpainting(mask=begun.mask, **edge, rounds=rounds)
    if not values["only_masked"]:
        if given := [name for name in OF_REGION if of_row.get(name) is not None]:
            raise ValueError(given[0], "given without only_masked, whose it is")
        return painted
    own = begun.picture.width, begun.picture.height
    if size != own:
        raise ValueError(
            "only_masked",
            f"{size[0]}x{size[1]} found as the row's size; around the mask stays the image's {own[0]}x{own[1]}, so no "
            "size wanted; masked_size says how large the part is rendered",
        )
    region = region_of(painted, values["mask_padding"], own, native_px, values["masked_size"])
    return painted.model_copy(update={"region": region})


def asking(names: Iterable[str], of_row: Mapping[str, Any]) -> list[str]:
    """Those of the fields that ask for something."""
    nothing = {"mask_rounds": (1,)}
    return [name for name in names if of_row.get(name) not in (*_SAYS_NOTHING, *nothing.get(name, ()))]


def passes_from(
    picture: InputPicture, wish: Mapping[str, Any], steps: int, size: tuple[int, int], *, region: bool
) -> Highres:
    """How a picture becomes a larger one.

    One pass enlarges by `LARGEST_STEP` at most, so `auto` is several where that is not enough; each after the first has
    the strength of highres. `refine` is at least one, which may see in windows. A region is rendered in one. Raises
    ValueError with (field, message).
    """
    if wish.get("mode") == "cascade":
        raise ValueError("highres", "cascade given beside an image; it begins with noise alone. auto wanted")
    if region:
        if wish.get("mode") == "refine":
            raise ValueError("highres", "refine given beside only_masked, which is rendered in one pass; auto wanted")
        return Highres()
    if "base_px" in wish:
        raise ValueError("highres", "base_px given beside an image, whose size it is that passes begin with")
    larger = growth(picture, size)
    wanted = wish.get("mode") == "refine"
    if wanted and larger <= 1:
        raise ValueError(
            "highres", "refine found for a picture no larger than the image that it begins with; auto or direct wanted"
        )
    if wish.get("mode") == "direct" or larger <= LARGEST_STEP:
        return Highres(mode=HighresMode.REFINE) if wanted else Highres()
    refine = Highres(mode=HighresMode.REFINE, **{name: wish[name] for name in ("strength", "steps") if name in wish})
    if (refine.steps or steps) * refine.strength < 1:
        raise ValueError(
            "highres",
            f"strength {refine.strength:g} of {refine.steps or steps} steps is less than one step; more wanted",
        )
    return refine


def growth(picture: InputPicture, size: tuple[int, int]) -> float:
    """How many times as long the sides become, in the mean of both."""
    return math.sqrt(size[0] * size[1] / (picture.width * picture.height))


def of_one_shape(picture: InputPicture, width: int, height: int) -> bool:
    """Whether no more than a latent pixel would be cut off if the picture covered the size."""
    scale = max(width / picture.width, height / picture.height)
    return picture.width * scale - width <= UNIT_PX and picture.height * scale - height <= UNIT_PX
