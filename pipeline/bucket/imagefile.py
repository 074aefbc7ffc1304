"""The file of an image: PNG, JPEG or WebP in sRGB, and what is written into it.

Two things unless they are stripped: `parameters` in the form that galleries of Stable Diffusion web UIs read, and a
JSON record from which the image can be rendered again. PNG has both as text chunks; JPEG and WebP have the parameters
as EXIF's UserComment and the record in an XMP packet.
"""

from __future__ import annotations

import functools
import html
import io
import json
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from pipeline.bucket.metadata.exif import exif
from pipeline.bucket.metadata.parameters import parameters_text
from pipeline.bucket.opened import UNREADABLE, opened
from pipeline.bucket.thumbnail import thumbnail
from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.picture import Format
from pipeline.records.results import ImageResult
from pipeline.schema import read_record

RECORD_CHUNK = "tessera"
CONTENT_TYPES = {Format.PNG: "image/png", Format.JPEG: "image/jpeg", Format.WEBP: "image/webp"}
# Level 1 takes a fifth of the time of Pillow's default 6 and makes files about a tenth larger (peers.md's figures at
# 2048 px: 0.46 against 2.1 s on one core).
COMPRESS_LEVEL = 1

# Known only when the file is made, so not part of it.
_OF_THE_FILE = {"sha256", "size_bytes"}

# A JPEG's segments hold 65,533 bytes, with a header of their own.
_SEGMENT_BYTES = 65_533 - 64
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:tessera="urn:tessera:record"><tessera:record>{record}</tessera:record></rdf:Description></rdf:RDF>'
    '</x:xmpmeta><?xpacket end="r"?>'
)
_IN_PACKET = re.compile(r"<tessera:record>([^<]*)</tessera:record>")


@dataclass(frozen=True)
class ImageFile:
    """An encoded image. `has_record` is False where it was stripped, or where the format has no room for it."""

    body: bytes
    content_type: str
    has_record: bool
    thumbnail: bytes  # of `pipeline.bucket.thumbnail`


def image_file(pixels: Any, result: ImageResult) -> ImageFile:
    """The image in the format that its row asks for.

    Args:
        pixels: uint8 array of shape (height, width, 3), sRGB.
        result: what is known of it; written into the file unless its row says not to.
    """
    image = Image.fromarray(pixels, "RGB")
    kind = result.file.format
    make = _png if kind is Format.PNG else _jpeg if kind is Format.JPEG else _webp
    buffer = io.BytesIO()
    has_record = make(image, result, buffer)
    return ImageFile(buffer.getvalue(), CONTENT_TYPES[kind], has_record, thumbnail(image))


def record_in(body: bytes) -> ImageResult | None:
    """The result that a file of ours carries, without digest and size; None if it has none, or is damaged.

    Raises RecordTooNew.
    """
    text = _text_in(body)
    try:
        return read_record(ImageResult, text, what="an image's own record") if text else None
    except RecordTooNew:
        raise
    except RecordUnreadable:
        return None


def has_record(body: bytes) -> bool:
    """Whether a whole file carries a record, be it one that this version cannot read."""
    return bool(_text_in(body))


def _text_in(body: bytes) -> str | None:
    try:
        with opened(body) as image:
            image.load()
            return _record_text(image)
    except UNREADABLE:
        return None


def is_whole(body: bytes, width: int, height: int) -> bool:
    """Whether a file decodes to a picture of this size in pixels."""
    try:
        with opened(body) as image:
            image.load()
            return image.size == (width, height)
    except UNREADABLE:
        return False


@functools.cache
def srgb_profile() -> bytes:
    """An sRGB profile. Without the moment it was made at, so that files of equal pictures are equal."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes.fromhex("07ea 0001 0001 0000 0000 0000") + profile[36:]


def _png(image: Image.Image, result: ImageResult, file: io.BytesIO) -> bool:
    dpi = result.file.dpi
    info = PngInfo()
    if not result.file.strip_metadata:
        info.add_text("parameters", parameters_text(result))  # tEXt, or iTXt where Latin-1 does not hold it
        info.add_itxt(RECORD_CHUNK, result.model_dump_json(exclude=_OF_THE_FILE))
    image.save(file, "PNG", pnginfo=info, compress_level=COMPRESS_LEVEL, icc_profile=srgb_profile(), dpi=(dpi, dpi))
    return not result.file.strip_metadata


def _jpeg(image: Image.Image, result: ImageResult, file: io.BytesIO) -> bool:
    packet = _packet(result)
    room = len(packet) <= _SEGMENT_BYTES
    image.save(
        file,
        "JPEG",
        quality=result.file.quality,
        subsampling=0,  # colours at full size: red lettering on a print would show the difference
        icc_profile=srgb_profile(),
        dpi=(result.file.dpi, result.file.dpi),
        exif=exif(result.file.dpi, _comment(result), most_bytes=_SEGMENT_BYTES),
        **({"xmp": packet} if packet and room else {}),
    )
    return bool(packet) and room


def _webp(image: Image.Image, result: ImageResult, file: io.BytesIO) -> bool:
    packet = _packet(result)
    block = exif(result.file.dpi, _comment(result))
    image.save(file, "WEBP", quality=result.file.quality, icc_profile=srgb_profile(), exif=block, xmp=packet)
    return bool(packet)


def _comment(result: ImageResult) -> str | None:
    return None if result.file.strip_metadata else parameters_text(result)


def _packet(result: ImageResult) -> bytes:
    if result.file.strip_metadata:
        return b""
    # As ASCII: XML forbids characters that JSON may hold.
    record = json.dumps(result.model_dump(mode="json", exclude=_OF_THE_FILE))
    return _PACKET.replace("{record}", html.escape(record, quote=False)).encode()


def _record_text(image: Image.Image) -> str | None:
    if image.format == "PNG":
        text: str | None = image.text.get(RECORD_CHUNK)  # type: ignore[attr-defined]  # PNG images have it
        return text
    packet = image.info.get("xmp", b"")
    found = _IN_PACKET.search(packet.decode(errors="replace"))
    return html.unescape(found[1]) if found else None
