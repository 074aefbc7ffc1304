"""The small picture of an image that galleries and contact sheets show.

A JPEG, made once in the pod beside the image, while its pixels are at hand.
"""

from __future__ import annotations

import io

from PIL import Image

SIDE_PX = 320  # the longer side: sharp enough for a gallery's 240 px
CONTENT_TYPE = "image/jpeg"

_QUALITY = 80


def thumbnail(image: Image.Image) -> bytes:
    """The file of an sRGB image's thumbnail, without metadata; never larger than the image, which stays as it is."""
    # Averaging whole pixels first is what makes 4096 px cheap; the filter still sees at least two for one.
    small = image.reduce(max(1, max(image.size) // (2 * SIDE_PX)))
    small.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
