"""Image files of ours, read: as large as rows may ask for, which is more than Pillow opens by itself."""

from __future__ import annotations

import io

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.input_picture import MAX_SIDE_PX

# By how a file begins. Pillow's `Image.open` warns above 89 megapixels and refuses above 179, by a limit of the whole
# process that is not ours to change; what it would open a file with has no such limit, but for WebP's, of which rows
# may therefore ask less.
_PNG, _JPEG, _RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"


# What `opened` and the reading of its pixels raise for a file that is damaged, or was never a picture.
UNREADABLE = (OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError)


def opened(body: bytes) -> ImageFile.ImageFile:
    """An image file, PNG, JPEG or WebP, for Pillow; its pixels are read when they are asked for.

    Files of others are read here as well, so both sides are bounded before anything is decoded.

    Raises one of `UNREADABLE`, also for a side above `MAX_SIDE_PX`, and for a WebP of more than Pillow's limit.
    """
    kind = PngImageFile if body[:8] == _PNG else JpegImageFile if body[:3] == _JPEG else WebPImageFile
    if kind is WebPImageFile and (body[:4] != _RIFF or body[8:12] != b"WEBP"):
        raise UnidentifiedImageError("no PNG, JPEG or WebP")
    image = kind(io.BytesIO(body))
    if max(image.size) > MAX_SIDE_PX:
        raise ValueError(f"{image.width}x{image.height} pixels found; sides of at most {MAX_SIDE_PX} wanted")
    return image


def is_picture(body: bytes) -> bool:
    """Whether a file decodes to a picture, whatever it shows."""
    try:
        opened(body).load()
    except UNREADABLE:
        return False
    return True
