"""Render an image again as its record says, and compare the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.outcomes import image_if_there
from pipeline.client.batch import Batch
from pipeline.client.image import RenderedImage
from pipeline.errors import ReplayFailed, RequestError
from pipeline.outputs.comparison import Difference, Likeness, differences, likeness
from pipeline.outputs.pictures import Models, PictureRow, picture_rows
from pipeline.records.results import ImageResult


@dataclass(frozen=True)
class Replay:
    """An image that was rendered again.

    Attributes:
        batch_id: of the batch that rendered it again.
        then: its record of the first time; None if another program made it.
        image: the second one.
        differences: in how the two were made.
        compared: whether the first one's pixels were there to compare: in the file itself, or still in the bucket.
        likeness: of the pixels; None if they were not compared, or if the sizes differ.
        program: that made the first one.
        left_out: what of its description could not be carried over.
    """

    batch_id: str
    then: ImageResult | None
    image: RenderedImage
    differences: list[Difference]
    compared: bool
    likeness: Likeness | None
    program: str = "Tessera"
    left_out: tuple[str, ...] = ()


def only_row(file: Path, models: Models) -> PictureRow:
    """The row of the one picture in a file. Raises RequestError if there is none, or several."""
    problems: list[str] = []
    found = list(picture_rows([file], models, refused=lambda _path, why: problems.append(why)))
    if problems:
        raise RequestError(problems[0])
    if len(found) != 1:
        raise RequestError(f"{file} holds {len(found)} records; one wanted (`tessera extract` takes all)")
    return found[0]


def compare(then: PictureRow, batch: Batch, artifacts: Artifacts) -> Replay:
    """The picture of a row beside that of a batch which has ended and rendered it again.

    Raises ReplayFailed if the batch has no image.
    """
    for failure in batch.errors():
        raise ReplayFailed(f"batch {batch.id}: {failure.code.value}: {failure.message}")
    image = next(batch.images(), None)
    if image is None:
        raise ReplayFailed(f"batch {batch.id} was {batch.status().state.value} before the image was rendered")
    result = then.result
    before = then.body or (image_if_there(artifacts, result) if result is not None else None)
    return Replay(
        batch_id=batch.id,
        then=result,
        image=image,
        differences=[] if result is None else differences(result, image.result),
        compared=before is not None,
        likeness=None if before is None else likeness(before, image.bytes()),
        program=then.program,
        left_out=then.notes,
    )
