"""Two renders of one row compared: how they were made, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ImageChops

from pipeline.bucket.opened import opened
from pipeline.records.results import ImageResult

# Fields of the provenance that came later.
_NOT_ALWAYS = ("sampler", "scheduler", "lora_tensors", "model_sha256")

_PIXELS_AT_ONCE = 1 << 24  # copies of two whole pictures of 200 megapixels would be 3 GB


@dataclass(frozen=True)
class Difference:
    """One thing that differs in how a picture was made, then and now."""

    what: str
    then: object
    now: object

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Likeness:
    """How much two pictures are alike.

    Attributes:
        psnr_db: peak signal-to-noise ratio over all channels, in dB; infinite if they are the same.
        largest: the largest difference in any channel of any pixel, from 0 to 255.
    """

    psnr_db: float
    largest: int

    @property
    def same(self) -> bool:
        return self.largest == 0

    def __str__(self) -> str:
        return "the same" if self.same else f"differ: PSNR {self.psnr_db:.1f} dB, by up to {self.largest} of 255"


def differences(then: ImageResult, now: ImageResult) -> list[Difference]:
    """What differs in how they were made: layout, ranks, device, model revision, versions; not the attempt.

    What an earlier version did not record is not compared.
    """
    records = [result.provenance.model_dump(mode="json") for result in (then, now)]
    unknown = {name for name in _NOT_ALWAYS if not all(record.get(name) for record in records)}
    before, after = (_flat({key: part for key, part in one.items() if key not in unknown}) for one in records)
    names = [name for name in before | after if name != "attempt"]
    return [Difference(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def likeness(then: bytes, now: bytes) -> Likeness | None:
    """How much two image files are alike; None if their sizes differ."""
    counts = [0] * 256
    with opened(then) as first, opened(now) as second:
        if first.size != second.size:
            return None
        rows = max(1, _PIXELS_AT_ONCE // first.width)
        for top in range(0, first.height, rows):
            box = (0, top, first.width, min(top + rows, first.height))
            differ = ImageChops.difference(first.crop(box).convert("RGB"), second.crop(box).convert("RGB")).histogram()
            counts = [count + sum(differ[level::256]) for level, count in enumerate(counts)]
    error = sum(count * level**2 for level, count in enumerate(counts)) / sum(counts)
    return Likeness(
        psnr_db=10 * math.log10(255**2 / error) if error else math.inf,
        largest=max(level for level, count in enumerate(counts) if count),
    )
