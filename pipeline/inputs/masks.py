"""What of a picture is painted anew: masks as people have them, transparent parts, and what is around it on a canvas.

A mask is white where the picture is painted anew. Pillow's 8-bit grey, 0 or 255.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from pipeline.inputs.plain import MAX_MEGAPIXELS, OpenedPicture, checked, eight_bits
from pipeline.inputs.reference import WantedPlace

WHITE = 128  # levels from which on a mask is white, as in diffusers
_GREY = range(32, 224)
_MOST_GREY = 0.02  # of a mask's pixels: more than the edges of a JPEG


@dataclass(frozen=True)
class MaskMeaning:
    """What a mask's white means, for messages.

    Attributes:
        white: where a mask is to be white.
        all_white: what follows if all of it is.
        advice: what else may be wanted, of a mask with transparent parts and of one that is grey.
    """

    white: str
    all_white: str
    advice: tuple[str, str]


PAINTED = MaskMeaning(
    "where the image is painted anew",
    "nothing of the image stays",
    (", or mask alpha for the transparent parts of the image itself", "; mask_feather softens an edge"),
)
RESEMBLED = MaskMeaning("where the picture shall resemble the image", "it counts everywhere, as without one", ("", ""))

Place = tuple[int, int, int, int]
"""Width and height of a canvas, left and top of the picture on it."""


def opened_mask(body: bytes, meaning: MaskMeaning = PAINTED) -> tuple[Image.Image, tuple[str, ...]]:
    """Read a mask: it, and what the user should know. Raises ValueError that says what was found and what is wanted."""
    return checked(body, lambda image, notes: _read(image, notes, meaning))


def transparent(opened: OpenedPicture) -> Image.Image:
    """The mask of a picture's transparent parts: those that show less than half of it. Raises ValueError if none is."""
    if opened.alpha is None:
        raise ValueError("no part of the image is transparent; a picture with an alpha channel wanted, or another mask")
    mask = opened.alpha.point(lambda level: 0 if level >= WHITE else 255)
    if mask.getbbox() is None:
        raise ValueError("no part of the image is more than half transparent; one that is wanted, or another mask")
    return mask


def place_of(size: tuple[int, int], wanted: WantedPlace) -> Place:
    """Where a picture lies on a canvas. Raises ValueError if it does not lie there with something around it."""
    (width, height), (across, down, left, top) = size, wanted
    left, top = (across - width) // 2 if left is None else left, (down - height) // 2 if top is None else top
    if across * down > MAX_MEGAPIXELS * 10**6:
        raise ValueError(f"{across}x{down} found; at most {MAX_MEGAPIXELS} megapixels wanted")
    if (across, down) == size:
        raise ValueError(f"{across}x{down} found, the image's own size, so nothing is painted; a larger one wanted")
    if min(left, top) < 0 or left + width > across or top + height > down:
        raise ValueError(
            f"{across}x{down} found, and the image of {width}x{height} at {left},{top} sticks out; a canvas that holds "
            "all of it wanted"
        )
    return across, down, left, top


def around(size: tuple[int, int], place: Place) -> Image.Image:
    """The mask of what is not the picture on a canvas."""
    width, height, left, top = place
    mask = Image.new("L", (width, height), 255)
    mask.paste(0, (left, top, left + size[0], top + size[1]))
    return mask


def on_canvas(image: Image.Image, place: Place, background: int | tuple[int, int, int]) -> Image.Image:
    """A picture or mask where it lies on a canvas."""
    width, height, left, top = place
    canvas = Image.new(image.mode, (width, height), background)
    canvas.paste(image, (left, top))
    return canvas


def filled(colours: Image.Image, unknown: Image.Image) -> Image.Image:
    """A picture whose unknown pixels (white in the mask) take the colours from around, softer the farther away.

    Pull and push: halved until nothing is unknown, each time the mean of what is known, then enlarged again beneath
    what is known (Gortler et al. 1996, "The Lumigraph", section 3.4). The known pixels stay as they are.
    """
    known = colours.convert("RGBA")
    known.putalpha(unknown.point(lambda level: 255 - level))
    levels = [known.convert("RGBa")]
    while levels[-1].size != (1, 1) and _least(levels[-1].getchannel("a")) < 255:
        width, height = levels[-1].size
        smaller = levels[-1].resize((-(-width // 2), -(-height // 2)), Image.Resampling.BOX)
        # Of what is known at all the mean is known: else each level would be fainter than the one before.
        whole = smaller.convert("RGBA")
        whole.putalpha(whole.getchannel("A").point(lambda level: 255 if level else 0))
        levels.append(whole.convert("RGBa"))
    found = levels.pop().convert("RGBA")
    while levels:
        finer = levels.pop().convert("RGBA")
        found = found.resize(finer.size, Image.Resampling.BICUBIC)
        found.paste(finer, (0, 0), finer.getchannel("A"))
    painted = colours.copy()
    painted.paste(found.convert("RGB"), (0, 0), unknown)
    return painted


def _read(image: Image.Image, of_file: tuple[str, ...], meaning: MaskMeaning) -> tuple[Image.Image, tuple[str, ...]]:
    image = eight_bits(image)
    if "transparency" in image.info or "A" in image.getbands():
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ValueError(
                f"a mask with transparent parts found, which may mean either; opaque white {meaning.white} and black "
                f"elsewhere wanted{meaning.advice[0]}"
            )
    grey = image.convert("RGB").convert("L") if image.mode in ("P", "RGBA", "CMYK") else image.convert("L")
    notes = list(of_file)
    counts = grey.histogram()
    share = sum(counts[level] for level in _GREY) / sum(counts)
    if share > _MOST_GREY:
        notes.append(
            f"{share:.0%} of it is grey, taken for black below level {WHITE} and for white from there on"
            f"{meaning.advice[1]}"
        )
    mask = grey.point(lambda level: 255 if level >= WHITE else 0)
    lightest, darkest = mask.getextrema()[1], mask.getextrema()[0]
    if not lightest:
        raise ValueError(f"no part of it is white; white {meaning.white} wanted, and black elsewhere")
    if darkest:
        notes.append(f"all of it is white, so {meaning.all_white}")
    return mask, tuple(notes)


def _least(channel: Image.Image) -> float:
    """The least value of a channel."""
    least, _ = channel.getextrema()
    if isinstance(least, tuple):
        raise TypeError(f"an image of mode {channel.mode} found, one channel wanted")
    return least
