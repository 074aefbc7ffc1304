"""EXIF with a resolution and a UserComment, byte by byte: Pillow writes the comment as BYTE, which piexif refuses.

EXIF 2.32 (CIPA DC-008), tables 4 and 8: the comment has type UNDEFINED and begins with eight bytes that name its code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _EXIF_IFD, _USER_COMMENT = 0x11A, 0x11B, 0x128, 0x8769, 0x9286
_SHORT, _LONG, _RATIONAL, _UNDEFINED = 3, 4, 5, 7
_INCH = 2
_ASCII, _UNICODE = b"ASCII\x00\x00\x00", b"UNICODE\x00"
_HEADER = b"MM\x00\x2a\x00\x00\x00\x08"  # big-endian, which is the byte order of the comment's UTF-16 as well


@dataclass(frozen=True)
class _Entry:
    tag: int
    type: int
    count: int
    value: bytes  # in place where it fits four bytes


def exif(dpi: int, comment: str | None, *, most_bytes: int | None = None) -> bytes:
    """An Exif block, from `Exif` on.

    Args:
        dpi: pixels an inch.
        comment: the UserComment, as the web UIs write it: UTF-16; where that is too much and the text is ASCII, ASCII.
        most_bytes: what there is room for; a comment that does not fit is left out.
    """
    bodies = [] if comment is None else [_UNICODE + comment.encode("utf-16-be", "surrogatepass")]
    if comment is not None and comment.isascii():
        bodies.append(_ASCII + comment.encode())
    for body in bodies:
        block = _block(dpi, body)
        if most_bytes is None or len(block) <= most_bytes:
            return block
    return _block(dpi, None)


def _block(dpi: int, comment: bytes | None) -> bytes:
    resolution = struct.pack(">II", dpi, 1)
    entries = [
        _Entry(_X_RESOLUTION, _RATIONAL, 1, resolution),
        _Entry(_Y_RESOLUTION, _RATIONAL, 1, resolution),
        _Entry(_RESOLUTION_UNIT, _SHORT, 1, struct.pack(">H", _INCH)),
    ]
    start = len(_HEADER)
    if comment is None:
        return b"Exif\x00\x00" + _HEADER + _directory(entries, start)
    # Its length does not depend on where the other directory begins.
    pointed = start + len(_directory([*entries, _Entry(_EXIF_IFD, _LONG, 1, bytes(4))], start))
    first = _directory([*entries, _Entry(_EXIF_IFD, _LONG, 1, struct.pack(">I", pointed))], start)
    second = _directory([_Entry(_USER_COMMENT, _UNDEFINED, len(comment), comment)], pointed)
    return b"Exif\x00\x00" + _HEADER + first + second


def _directory(entries: list[_Entry], start: int) -> bytes:
    """An image file directory that begins `start` bytes into the block, and the values that it points at."""
    behind = start + 2 + 12 * len(entries) + 4
    table, values = struct.pack(">H", len(entries)), b""
    for entry in entries:
        table += struct.pack(">HHI", entry.tag, entry.type, entry.count)
        if len(entry.value) <= 4:
            table += entry.value.ljust(4, b"\x00")
        else:
            table += struct.pack(">I", behind + len(values))
            values += entry.value + bytes(len(entry.value) % 2)  # values begin at even offsets
    return table + bytes(4) + values
