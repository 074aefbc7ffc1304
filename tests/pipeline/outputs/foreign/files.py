"""Files as other programs write them."""

from __future__ import annotations

import io

import piexif
import piexif.helper
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def png_with(**texts: str) -> bytes:
    """A PNG with these texts, as A1111 and ComfyUI write them; `sd_metadata` is sd-metadata."""
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_text("sd-metadata" if name == "sd_metadata" else name, text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def commented(kind: str, text: str, encoding: str) -> bytes:
    """A JPEG or WebP with a UserComment, as A1111 writes it by piexif."""
    file, comment = io.BytesIO(), piexif.helper.UserComment.dump(text, encoding=encoding)
    exif = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif)
    return file.getvalue()
