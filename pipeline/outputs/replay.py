"""Rows out of what was rendered: from files that carry their record, sidecars and lines of results.jsonl.

A row from a result says everything, so it renders the same picture whatever the defaults are by then.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from pipeline.bucket.imagefile import record_in
from pipeline.errors import RecordTooNew, RecordUnreadable, RequestError
from pipeline.picture import Format, HighresMode, Picture
from pipeline.records.results import ImageResult
from pipeline.schema import read_lines

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_MAGIC, _MAGIC_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF"), 4
# Fields of a row that a result has under another name, or that are left out of a row where they say nothing.
_OWN = frozenset({"file", "conditioning", "highres", "metadata"})
_SAYS_NOTHING: tuple[object, ...] = (None, [], (0, 0), [0, 0], {})
_ALWAYS = frozenset({"prompt_2", "negative_prompt", "negative_prompt_2", "scheduler", "loras"})


@dataclass(frozen=True)
class Recorded:
    """An image's record, and the image if that is where it was found."""

    result: ImageResult
    body: bytes | None


@dataclass(frozen=True)
class Difference:
    """Something about how a picture was made that is not as it was."""

    what: str
    then: object
    now: object

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Likeness:
    """How near two pictures are.

    Attributes:
        psnr_db: peak signal-to-noise ratio over all channels, in dB; infinite if they are the same.
        largest: the largest difference of any channel of any pixel, of 255.
    """

    psnr_db: float
    largest: int

    @property
    def same(self) -> bool:
        return self.largest == 0

    def __str__(self) -> str:
        return "the same" if self.same else f"differ: PSNR {self.psnr_db:.1f} dB, by up to {self.largest} of 255"


def records_in(path: Path) -> Iterator[Recorded]:
    """The record of a PNG, JPEG or WebP, or those of a sidecar or of a results.jsonl, as they are read.

    An image that was stripped is known by the sidecar beside it. Raises RequestError if there is no record.
    """
    try:
        with path.open("rb") as file:
            is_image = path.suffix.lower() in _SUFFIXES  # one that is empty, say
            if not (file.read(_MAGIC_BYTES).startswith(_MAGIC) or is_image):
                file.seek(0)
                yield from (Recorded(result, None) for result in _lines(path, file))
                return
        body = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    result = record_in(body)
    sidecar = path.with_suffix(".json")
    if result is None and sidecar.is_file():
        result = next(_lines(sidecar, sidecar.read_bytes().splitlines()), None)
    if result is None:
        raise RequestError(
            f"{path} carries no record: it was stripped, or Tessera did not make it. Its sidecar or its line of "
            "results.jsonl will do instead"
        )
    yield Recorded(result, body)


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[ImageResult]:
    try:
        yield from read_lines(ImageResult, lines, what=str(path))
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        raise RequestError(f"{error.what}: no record of an image that is there") from error


def row_of(result: ImageResult) -> dict[str, Any]:
    """The row that renders this very image, under the names of `pipeline.promptset.row.Row`."""
    values = result.model_dump(mode="json")
    said = {name: values[name] for name in Picture.model_fields if name not in _OWN}
    said |= values["conditioning"] | values["file"] | {"metadata": values["metadata"]}
    if result.file.format is Format.PNG:
        del said["quality"]
    highres = values["highres"] if result.highres.mode is HighresMode.REFINE else {"mode": result.highres.mode.value}
    said["highres"] = {name: value for name, value in highres.items() if value is not None}
    said = {name: value for name, value in said.items() if name in _ALWAYS or value not in _SAYS_NOTHING}
    return {"custom_id": result.custom_id, "seed": result.seed, **said}


def manifest_rows(results: Iterable[ImageResult]) -> Iterator[dict[str, Any]]:
    """Rows that render these images, each with a custom_id of its own: further images of a row get their number."""
    taken: set[str] = set()
    for result in results:
        wanted = result.custom_id[:200].rstrip() + (f"-{result.number}" if result.number else "")
        custom_id, again = wanted, 1
        while custom_id in taken:
            again += 1
            custom_id = f"{wanted}-{again}"
        taken.add(custom_id)
        yield row_of(result) | {"custom_id": custom_id}


def differences(then: ImageResult, now: ImageResult) -> list[Difference]:
    """What differs in how they were made: layout, ranks, device, model revision, versions; attempts do not count."""
    before, after = (_flat(result.provenance.model_dump(mode="json")) for result in (then, now))
    names = [name for name in before | after if name != "attempt"]
    return [Difference(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def likeness(then: bytes, now: bytes) -> Likeness | None:
    """How near two image files are; None if their sizes differ."""
    with Image.open(io.BytesIO(then)) as first, Image.open(io.BytesIO(now)) as second:
        if first.size != second.size:
            return None
        levels = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).histogram()
    counts = [sum(levels[level::256]) for level in range(256)]
    error = sum(count * level**2 for level, count in enumerate(counts)) / sum(counts)
    return Likeness(
        psnr_db=10 * math.log10(255**2 / error) if error else math.inf,
        largest=max(level for level, count in enumerate(counts) if count),
    )
