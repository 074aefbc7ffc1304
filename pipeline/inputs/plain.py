"""A picture as people have it to a plain one: upright, 8-bit, sRGB, opaque, PNG.

Other people's files are not trusted: few formats, bounded in bytes and pixels before anything is decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeVar, cast

from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.input_picture import MAX_SIDE_PX

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_OF_CAMERAS = "MPO"  # as Pillow calls a JPEG whose index names more pictures: a preview, a gain map, another eye's
MAX_BYTES = 512 << 20
MIN_SIDE_PX = 8
# Thin pictures aside, what a deployment renders is bounded by its settings; so much may be read to be made smaller.
MAX_MEGAPIXELS = 100

_COMPRESSION = 1  # of zlib: photographs gain little from more, and a thousand of them take their time
_LEVELS_APART = {"L;2": 85, "L;4": 17}  # of a PNG's grey of 2 and 4 bits, once Pillow has read it in 8
_SIXTEEN_BITS = frozenset({"I;16", "I;16B", "I;16L", "I"})
_MOST_OF_SIXTEEN = 2**16 - 1
_SAID = {
    b"<htm": "a page of HTML",
    b"<!do": "a page of HTML",
    b"<svg": "an SVG drawing",
    b"<?xm": "an SVG drawing or other XML",
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"vers": "a pointer of Git LFS, without the picture",
}


T = TypeVar("T")


@dataclass(frozen=True)
class OpenedPicture:
    """A picture as it was read, upright.

    Attributes:
        colours: 8-bit RGB, those beneath transparent parts, too.
        alpha: of 8 bits, 0 where it is transparent; None if it is nowhere.
        notes: what the user should know.
    """

    colours: Image.Image
    alpha: Image.Image | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlainPicture:
    """A picture that was read.

    Attributes:
        png: 8-bit RGB.
        width, height: pixels.
        notes: what the user should know: what of the file was left out.
    """

    png: bytes
    width: int
    height: int
    notes: tuple[str, ...] = ()


def plain_picture(body: bytes) -> PlainPicture:
    """Read a picture. Raises ValueError that says what was found and what is wanted."""
    opened = opened_picture(body)
    colours, notes = opened.colours, opened.notes
    if opened.alpha is not None:
        notes = (*notes, "its transparent parts were laid on white")
        white = Image.new("RGB", colours.size, (255, 255, 255))
        colours = Image.composite(colours, white, opened.alpha)
    return PlainPicture(png_of(colours), colours.width, colours.height, notes)


def opened_picture(body: bytes) -> OpenedPicture:
    """Read a picture with its transparency. Raises ValueError that says what was found and what is wanted."""
    return checked(body, _srgb)


def checked(body: bytes, read: Callable[[Image.Image, tuple[str, ...]], T]) -> T:
    """What `read` makes of a file's picture, upright, and of notes on the file; bounded before anything is decoded.

    Raises ValueError that says what was found and what is wanted.
    """
    if len(body) > MAX_BYTES:
        raise ValueError(f"{len(body) >> 20} MiB found; at most {MAX_BYTES >> 20} MiB wanted")
    if not body:
        raise ValueError("an empty file found; a picture wanted")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(body), formats=FORMATS) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is below
            _check(image)
            notes = _left_out(image)
            _scale_transparent_level(image)
            upright = ImageOps.exif_transpose(image)
            image.load()
            return read(upright, notes)
    except UnidentifiedImageError as error:
        found = _SAID.get(body[:4].lower() if body[:1] == b"<" else body[:4], "no picture that is known here")
        raise ValueError(f"{found} found; {_wanted()} wanted") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"far more pixels found than at most {MAX_MEGAPIXELS} megapixels, which are wanted") from error
    except ValueError:
        raise
    except (OSError, SyntaxError, EOFError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"it cannot be read: {reason[:200]}; half a download, maybe") from error


def png_of(image: Image.Image) -> bytes:
    """The file of a plain picture or mask; equal pixels have equal bytes."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_COMPRESSION)
    return file.getvalue()


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits in 8, any other as it is. Raises ValueError for floats, and for whole numbers of more bits."""
    if image.mode == "I":
        least, most = cast("tuple[int, int]", image.getextrema())
        if least < 0 or most > _MOST_OF_SIXTEEN:
            raise ValueError(f"pixels of {least} to {most} found; 8 or 16 bits a channel wanted")
    if image.mode in _SIXTEEN_BITS:
        return image.convert("I").point(lambda level: level * (1 / 257) + 0.5).convert("L")
    if image.mode == "F":
        raise ValueError("pixels of 32-bit floats found; 8 or 16 bits a channel wanted")
    return image


def read_bounded(file: IO[bytes]) -> bytes:
    """All of a file, one byte more than is allowed at most."""
    return file.read(MAX_BYTES + 1)


def _check(image: Image.Image) -> None:
    if (frames := _frames(image)) != 1 and image.format != _OF_CAMERAS:
        raise ValueError(f"an animation, or several pages, of {frames} pictures found; a single picture wanted")
    width, height = image.size
    if not (MIN_SIDE_PX <= width <= MAX_SIDE_PX and MIN_SIDE_PX <= height <= MAX_SIDE_PX):
        raise ValueError(f"{width}x{height} pixels found; sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} wanted")
    if width * height > MAX_MEGAPIXELS * 10**6:
        raise ValueError(f"{width}x{height} pixels found; at most {MAX_MEGAPIXELS} megapixels wanted")


def _scale_transparent_level(image: ImageFile.ImageFile) -> None:
    """Pillow scales grey levels of 2 and 4 bits to 8 as it reads them, and not the one that is transparent."""
    if image.format == "PNG" and isinstance(level := image.info.get("transparency"), int):
        image.info["transparency"] = level * _LEVELS_APART.get(str(image.tile[0].args), 1)


def _frames(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1))


def _left_out(image: Image.Image) -> tuple[str, ...]:
    frames = _frames(image)
    return (f"{frames} pictures found in a camera's file; the first was taken, as browsers do",) if frames > 1 else ()


def _srgb(image: Image.Image, of_file: tuple[str, ...]) -> OpenedPicture:
    """In 8 bits and in sRGB, and what was done that a user would want to know."""
    notes = list(of_file)
    profile = image.info.get("icc_profile")
    if image.mode in _SIXTEEN_BITS:
        profile = None  # of grey levels: little to convert
    image = eight_bits(image)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("1", "LAB", "HSV", "YCbCr", "RGBX"):
        image, profile = image.convert("RGB"), None
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    if alpha is not None:
        image = image.convert("RGB") if image.mode == "RGBA" else image.convert("L")
    colours = _converted(image, profile, notes)
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    return OpenedPicture(colours, alpha, tuple(notes))


def _converted(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            found = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            notes.append(f"its colour profile cannot be used ({str(error)[:80]}); its levels were taken for sRGB")
        else:
            if found is not None:
                return found
    elif image.mode == "CMYK":
        notes.append("it is CMYK without a colour profile; converted by formula, so colours may be off")
    return image.convert("RGB")


def _wanted() -> str:
    *first, last = FORMATS
    return f"{', '.join(first)} or {last}"
