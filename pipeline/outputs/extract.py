"""Rows made from what was rendered: from image files with their record, sidecars, and lines of results.jsonl.

A row made from a result names every value, so it renders the same picture whatever the defaults are by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bucket.imagefile import record_in
from pipeline.errors import RecordTooNew, RecordUnreadable, RequestError
from pipeline.input_picture import AdapterReference
from pipeline.picture import Format, HighresAttention, HighresMode, Picture, Syntax
from pipeline.records.results import ImageResult
from pipeline.schema import read_lines

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_MAGIC, _MAGIC_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF"), 4
# Parts of a result that are fields of their own in a row, have another form there, or follow from its prompts.
_PARTS = frozenset(
    {
        "file",
        "conditioning",
        "highres",
        "later_passes",
        "cascade",
        "metadata",
        "embeddings",
        "image",
        "inpaint",
        "control",
        "reference",
    }
)
_EMPTY: tuple[object, ...] = (None, [], (0, 0), [0, 0], {})
# Fields that count even if they are empty: a row without them would get the defaults.
_ALWAYS = frozenset({"prompt_2", "negative_prompt", "negative_prompt_2", "scheduler", "loras"})


@dataclass(frozen=True)
class Recorded:
    """An image's record, and the image if that is where it was found."""

    result: ImageResult
    body: bytes | None


def records_in(path: Path) -> Iterator[Recorded]:
    """The record of a PNG, JPEG or WebP, or the records of a sidecar or a results.jsonl, one by one.

    For an image whose metadata was stripped, the sidecar beside it is read. Raises RequestError if there is no record.
    """
    try:
        with path.open("rb") as file:
            is_image = path.suffix.lower() in IMAGE_SUFFIXES  # even if it is empty
            if not (file.read(_MAGIC_BYTES).startswith(_MAGIC) or is_image):
                file.seek(0)
                yield from (Recorded(result, None) for result in _lines(path, file))
                return
        body = path.read_bytes()
        result = record_in(body)
        sidecar = path.with_suffix(".json")
        if result is None and sidecar.is_file():
            result = next(_lines(sidecar, sidecar.read_bytes().splitlines()), None)
    except OSError as error:
        raise RequestError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if result is None:
        raise RequestError(
            f"{path} carries no record: it was stripped, or Tessera did not make it, nor a program whose metadata are "
            "known. Its sidecar or its line of results.jsonl will do instead"
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
    """The row that renders this image again, with the names of `pipeline.promptset.fields.row.Row`."""
    values = result.model_dump(mode="json")
    fields = {name: values[name] for name in Picture.model_fields if name in values and name not in _PARTS}
    fields |= {"syntax": (result.syntax or Syntax.NONE).value, "clip_skip": result.clip_skip}
    # A model may have got a refiner since, which takes over unless a row says 1.
    fields |= {
        "guidance_interval": list(result.guidance_interval),
        "refiner_switch_at": result.refiner_switch_at or 1.0,
    }
    fields |= values["conditioning"] | values["file"] | {"metadata": values["metadata"]}
    if result.file.format is Format.PNG:
        del fields["quality"]
    highres: dict[str, Any] = {"mode": result.highres.mode.value}
    if result.highres.mode is HighresMode.REFINE:
        attention = HighresAttention.WHOLE if result.later_passes.window_px is None else HighresAttention.WINDOWS
        highres = values["highres"] | {"attention": attention.value} | result.later_passes.model_dump(mode="json")
    if result.cascade is not None:
        as_before = {"guidance_scale": result.guidance_scale}
        highres = {"mode": "cascade"} | as_before | result.cascade.model_dump(mode="json")
    if result.image is not None:
        fields["image"] = f"input://{result.batch_id}/{result.image.sha256}"
    if (painted := result.inpaint) is not None:
        fields["mask"] = f"input://{result.batch_id}/{painted.mask.sha256}"
        fields |= {"mask_grow": painted.grow, "mask_feather": painted.feather}
        fields |= {"mask_rounds": painted.rounds} if painted.rounds > 1 else {}
        if (region := painted.region) is not None:
            fields |= {"only_masked": True, "mask_padding": region.padding, "masked_size": list(region.rendered)}
    fields["control"] = [
        one.model_dump(mode="json", exclude={"kind"}) | {"image": f"input://{result.batch_id}/{one.image.sha256}"}
        for one in result.control
    ]
    fields["reference"] = [_reference(result.batch_id, one) for one in result.reference]
    fields["highres"] = {name: value for name, value in highres.items() if value is not None}
    fields = {name: value for name, value in fields.items() if name in _ALWAYS or value not in _EMPTY}
    return {"custom_id": result.custom_id, "seed": result.seed, **fields}


def _reference(batch_id: str, reference: AdapterReference) -> dict[str, Any]:
    mask = {} if reference.mask is None else {"mask": f"input://{batch_id}/{reference.mask.sha256}"}
    image = f"input://{batch_id}/{reference.image.sha256}"
    return {"adapter": reference.adapter, "image": image, "scale": reference.scale} | mask
