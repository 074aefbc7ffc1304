"""The texts in a PNG, JPEG or WebP, by the names that programs look them up by; no pixel is decoded.

PNG's text chunks have names of their own. What JPEG and WebP hold in EXIF is found under `UserComment`,
`ImageDescription`, `Make`, `Model`, `Software` and `MakerNote`.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image

MAX_FILE_BYTES = 1 << 30
MAX_TEXT_BYTES = 8 << 20  # of one text, decompressed; ComfyUI's largest graphs have one or two
MAX_TEXTS, MAX_CHUNKS = 64, 1 << 20

_PNG, _JPEG, _RIFF, _WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF", b"WEBP"
_EXIF = b"Exif\x00\x00"
_TAGS = {0x10E: "ImageDescription", 0x10F: "Make", 0x110: "Model", 0x131: "Software"}
_EXIF_IFD, _EXIF_TAGS = 0x8769, {0x9286: "UserComment", 0x927C: "MakerNote"}
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
# What Pillow's reader of EXIF raises for damaged blocks.
_DAMAGED = (ValueError, KeyError, IndexError, TypeError, OSError, SyntaxError, struct.error, OverflowError)


class UnreadableTexts(ValueError):
    """A file whose texts cannot be read, and why."""


def texts_in(body: bytes) -> dict[str, str]:
    """By name, the texts of a file; of several with one name the first. Raises UnreadableTexts."""
    if body.startswith(_PNG):
        found = _png(body)
    elif body.startswith(_JPEG):
        found = _jpeg(body)
    elif body[:4] == _RIFF and body[8:12] == _WEBP:
        found = _webp(body)
    else:
        raise UnreadableTexts("it is no PNG, JPEG or WebP")
    texts: dict[str, str] = {}
    for name, text in found:
        texts.setdefault(name, text)
        if len(texts) > MAX_TEXTS:
            raise UnreadableTexts(f"it has more than {MAX_TEXTS} texts")
    return texts


def _png(body: bytes) -> Iterator[tuple[str, str]]:
    at = len(_PNG)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(body):
            return
        length, kind = struct.unpack_from(">I4s", body, at)
        data = body[at + 8 : at + 8 + length] if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf") else b""
        if kind == b"eXIf":
            yield from _exif(data)
        elif data:
            name, _, rest = data.partition(b"\x00")
            if len(rest) > MAX_TEXT_BYTES:
                raise UnreadableTexts(f"a text of {len(rest):,} bytes; at most {MAX_TEXT_BYTES:,} wanted")
            yield name[:80].decode("latin-1"), _png_text(kind, rest)
        at += 12 + length


def _png_text(kind: bytes, rest: bytes) -> str:
    if kind == b"tEXt":
        try:  # some programs write UTF-8 here, which is seldom Latin-1 by chance
            return rest.decode()
        except UnicodeDecodeError:
            return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflated(rest[1:]).decode("latin-1")
    compressed, rest = rest[:1] == b"\x01", rest[2:]
    text = rest.split(b"\x00", 2)[-1]  # behind language and translated name
    return (_inflated(text) if compressed else text).decode(errors="replace")


def _inflated(packed: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(packed, MAX_TEXT_BYTES)
    except zlib.error as error:
        raise UnreadableTexts(f"a compressed text is broken ({error})") from error
    if inflate.unconsumed_tail:
        raise UnreadableTexts(f"a text swells beyond {MAX_TEXT_BYTES:,} bytes")
    return text


def _jpeg(body: bytes) -> Iterator[tuple[str, str]]:
    at = 2
    while at + 4 <= len(body) and body[at] == 0xFF and body[at + 1] not in (_SOS, _EOI):
        (length,) = struct.unpack_from(">H", body, at + 2)
        segment = body[at + 4 : at + 2 + length]
        if body[at + 1] == _APP1 and segment.startswith(_EXIF):
            yield from _exif(segment.removeprefix(_EXIF))
        at += 2 + max(2, length)


def _webp(body: bytes) -> Iterator[tuple[str, str]]:
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(body):
            return
        kind, length = struct.unpack_from("<4sI", body, at)
        if kind == b"EXIF":
            yield from _exif(body[at + 8 : at + 8 + length].removeprefix(_EXIF))
        at += 8 + length + length % 2


def _exif(block: bytes) -> Iterator[tuple[str, str]]:
    if len(block) > MAX_TEXT_BYTES:
        raise UnreadableTexts(f"an EXIF block of {len(block):,} bytes; at most {MAX_TEXT_BYTES:,} wanted")
    exif = Image.Exif()
    found: list[tuple[str, Any]] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is damaged: what can be read is read
            exif.load(_EXIF + block)
            found += [(name, exif.get(tag)) for tag, name in _TAGS.items()]
            inner = exif.get_ifd(_EXIF_IFD)
            found += [(name, inner.get(tag)) for tag, name in _EXIF_TAGS.items()]
    except _DAMAGED as error:
        raise UnreadableTexts(f"its EXIF is damaged ({type(error).__name__})") from error
    for name, value in found:
        if isinstance(value, bytes):
            yield name, _comment(value)
        elif isinstance(value, str):
            yield name, value.rstrip("\x00")


def _comment(value: bytes) -> str:
    """A UserComment: eight bytes that name its code, and the text, whose byte order programs do not agree on."""
    code, text = value[:8], value[8:]
    if code == b"UNICODE\x00":
        order = "utf-16-le" if text[1::2].count(0) > text[::2].count(0) else "utf-16-be"
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            order = "utf-16"
        return text.decode(order, errors="replace").rstrip("\x00")
    plain = text if code in (b"ASCII\x00\x00\x00", bytes(8)) else value
    return plain.decode(errors="replace").rstrip("\x00 ")
