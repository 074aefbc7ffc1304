"""What a row may say of where a picture lies: a path, an upload, an object in a bucket, an image of another batch."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARACTERS = 1_000
ALPHA = "alpha"  # a row's mask: the transparent parts of its image

_ID = r"(?P<batch>[A-Za-z0-9._-]{1,100})"
_OF_BATCH, _OF_INPUT, _OF_UPLOAD = "batch", "input", "upload"  # schemes
_IMAGE = re.compile(rf"{_OF_BATCH}://{_ID}/(?P<custom_id>.+?)(?:#(?P<number>\d{{1,4}}))?")
_PICTURE = re.compile(rf"{_OF_INPUT}://{_ID}/(?P<sha256>[0-9a-f]{{64}})")
_UPLOAD = re.compile(rf"{_OF_UPLOAD}://(?P<id>[A-Za-z0-9-]{{1,80}})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?://|[^\\])")


@dataclass(frozen=True)
class OfBatch:
    """An image that another batch has rendered: `batch://ID/CUSTOM_ID`, with `#2` for the third of its row."""

    batch: str
    custom_id: str
    number: int


@dataclass(frozen=True)
class OfInput:
    """A picture that another batch began with, as its records name it: `input://ID/SHA256`."""

    batch: str
    sha256: str


@dataclass(frozen=True)
class OfUpload:
    """A file that was uploaded over HTTP: `upload://ID`."""

    id: str


@dataclass(frozen=True)
class InBucket:
    """An object: `s3://BUCKET/KEY`."""

    url: str


@dataclass(frozen=True)
class OnDisk:
    """A file's path, as it was written."""

    path: str


Reference = OfBatch | OfInput | OfUpload | InBucket | OnDisk

WantedPlace = tuple[int, int, int | None, int | None]
"""Width and height of a canvas, left and top of the picture on it; None is in the middle."""


def parsed(text: str) -> Reference:
    """What is meant. Raises ValueError for what is no place for a picture here."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters found; a path or URL of at most {MAX_CHARACTERS} wanted")
    if not text.strip() or not text.isprintable():
        raise ValueError(
            "an empty or unprintable path found; a picture's path, upload://ID, s3:// URL or batch://ID/ROW wanted"
        )
    if text.startswith("s3://"):
        return InBucket(text)
    if found := _IMAGE.fullmatch(text):
        return OfBatch(found["batch"], found["custom_id"], int(found["number"] or 0))
    if found := _PICTURE.fullmatch(text):
        return OfInput(found["batch"], found["sha256"])
    if found := _UPLOAD.fullmatch(text):
        return OfUpload(found["id"])
    if text.startswith(("http://", "https://")):
        raise ValueError("a web address found, which is not fetched; download it, and say the file's path or s3:// URL")
    if text.startswith("data:"):
        raise ValueError("a data: URL found; write the picture to a file, and say its path")
    if _SCHEME.match(text):
        raise ValueError(f"{text[:60]!r} found; a path, upload://ID, s3://BUCKET/KEY or batch://ID/CUSTOM_ID wanted")
    return OnDisk(text)
