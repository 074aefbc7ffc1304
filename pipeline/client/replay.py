"""Render an image again as its record says, and compare the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.outcomes import image_if_there
from pipeline.client.batch import Batch, RenderedImage
from pipeline.errors import ReplayFailed, RequestError
from pipeline.outputs.comparison import Difference, Likeness, differences, likeness
from pipeline.outputs.extract import Recorded, records_in
from pipeline.records.results import ImageResult


@dataclass(frozen=True)
class Replay:
    """An image that was rendered again.

    Attributes:
        batch_id: of the batch that rendered it again.
        then: its record of the first time.
        image: the second one.
        differences: in how the two were made.
        compared: whether the first one's pixels were there to compare: in the file itself, or still in the bucket.
        likeness: of the pixels; None if they were not compared, or if the sizes differ.
    """

    batch_id: str
    then: ImageResult
    image: RenderedImage
    differences: list[Difference]
    compared: bool
    likeness: Likeness | None


def only_record(file: Path) -> Recorded:
    """The one record in a file. Raises RequestError if there is none, or several."""
    found = list(records_in(file))
    if len(found) != 1:
        raise RequestError(f"{file} holds {len(found)} records; one wanted (`tessera extract` takes all)")
    return found[0]


def compare(then: Recorded, batch: Batch, artifacts: Artifacts) -> Replay:
    """The image of a record beside that of a batch which has ended and rendered it again.

    Raises ReplayFailed if the batch has no image.
    """
    for failure in batch.errors():
        raise ReplayFailed(f"batch {batch.id}: {failure.code.value}: {failure.message}")
    image = next(batch.images(), None)
    if image is None:
        raise ReplayFailed(f"batch {batch.id} was {batch.status().state.value} before the image was rendered")
    before = then.body or image_if_there(artifacts, then.result)
    return Replay(
        batch_id=batch.id,
        then=then.result,
        image=image,
        differences=differences(then.result, image.result),
        compared=before is not None,
        likeness=None if before is None else likeness(before, image.bytes()),
    )
